#include <torch/library.h>

#include "channels.h"
#include "outputs.h"

namespace torchquant::ops {
namespace {

using Quantized = std::tuple<Tensor, Tensor, Tensor>;

struct Codes {
  int32_t quant_min;
  int32_t quant_max;
  bool symmetric;

  QParams choose(const Range& range) const {
    return choose_for(range, quant_min, quant_max, symmetric);
  }
  kernels::QuantizeParams params(const QParams& chosen) const {
    return {1.0f / chosen.scale, chosen.zero_point, quant_min, quant_max};
  }
};

// Each row is chosen for and quantized while it is in cache. Chosen zero points lie in
// [quant_min, quant_max], so that every set of kernels takes them.
Quantized quantize_dynamic_per_token_cpu(const Tensor& input, int64_t quant_min, int64_t quant_max,
                                         bool symmetric, ScalarType dtype) {
  check_quantize_dynamic(input, quant_min, quant_max, symmetric, dtype);
  check_min_dim(input, "input", 1);
  const Tensor x = input.contiguous();
  const Tensor q = new_like(input, dtype);
  const auto [scale, zero_point] = new_qparams_per_token(input);
  const Codes codes = {static_cast<int32_t>(quant_min), static_cast<int32_t>(quant_max), symmetric};
  const auto from = kernel_float(x.scalar_type());
  const auto to = kernel_int(dtype);
  const int64_t row = x.size(-1);
  auto* scales = scale.mutable_data_ptr<float>();
  auto* zero_points = zero_point.mutable_data_ptr<int32_t>();
  const int64_t grain = at::divup(kGrain, std::max<int64_t>(1, row));
  at::parallel_for(0, row_count(x), grain, [&](int64_t begin, int64_t end) {
    const kernels::Kernels& set = kernels::active();
    for (int64_t m = begin; m < end; ++m) {
      const QParams chosen = codes.choose(set.range.span(element(x, m * row), from, row));
      set.quantize.span(element(x, m * row), from, mutable_element(q, m * row), to, row,
                        codes.params(chosen));
      scales[m] = chosen.scale;
      zero_points[m] = chosen.zero_point;
    }
  });
  return {q, scale, zero_point};
}

// The whole range is needed before the first code: two passes.
Quantized quantize_dynamic_per_tensor_cpu(const Tensor& input, int64_t quant_min, int64_t quant_max,
                                          bool symmetric, ScalarType dtype) {
  check_quantize_dynamic(input, quant_min, quant_max, symmetric, dtype);
  const Tensor x = input.contiguous();
  const Tensor q = new_like(input, dtype);
  const auto [scale, zero_point] = new_qparams_per_tensor(input);
  const Codes codes = {static_cast<int32_t>(quant_min), static_cast<int32_t>(quant_max), symmetric};
  const auto from = kernel_float(x.scalar_type());
  const auto to = kernel_int(dtype);
  const QParams chosen = codes.choose(range_of_all(x));
  at::parallel_for(0, x.numel(), kGrain, [&](int64_t begin, int64_t end) {
    kernels::active().quantize.span(element(x, begin), from, mutable_element(q, begin), to,
                                    end - begin, codes.params(chosen));
  });
  *scale.mutable_data_ptr<float>() = chosen.scale;
  *zero_point.mutable_data_ptr<int32_t>() = chosen.zero_point;
  return {q, scale, zero_point};
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CPU, m) {
  m.impl("quantize_dynamic_per_tensor", &quantize_dynamic_per_tensor_cpu);
  m.impl("quantize_dynamic_per_token", &quantize_dynamic_per_token_cpu);
}

}  // namespace torchquant::ops
