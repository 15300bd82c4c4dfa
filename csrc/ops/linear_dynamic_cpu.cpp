#include <torch/library.h>

#include "gemm.h"
#include "outputs.h"

namespace torchquant::ops {
namespace {

// Activations are uint8: what the vector instructions multiply with a signed weight.
constexpr int32_t kQuantMin = 0;
constexpr int32_t kQuantMax = 255;

kernels::Output kernel_output(ScalarType dtype) {
  if (dtype == at::kHalf) return kernels::Output::f16;
  if (dtype == at::kBFloat16) return kernels::Output::bf16;
  return kernels::Output::f32;
}

// The qparams of each token, found while its row is quantized.
struct TokenParams {
  std::vector<float> scale;
  std::vector<int32_t> zero_point;
};

// Quantizes row m of x and lays it out for the matmul. The row is read twice, the second time from
// cache, and its codes are written to a buffer of the thread's own.
void prepare_token(const Tensor& x, int64_t m, TokenParams& params, void* prepared) {
  const kernels::Kernels& set = kernels::active();
  const int64_t depth = x.size(-1);
  const auto type = kernel_float(x.scalar_type());
  const void* row = element(x, m * depth);
  const QParams chosen = affine_qparams(set.range.span(row, type, depth), kQuantMin, kQuantMax);
  params.scale[m] = chosen.scale;
  params.zero_point[m] = chosen.zero_point;
  thread_local std::vector<uint8_t> codes;
  codes.resize(depth);
  set.quantize.span(row, type, codes.data(), kernels::Int::u8, depth,
                    {1.0f / chosen.scale, chosen.zero_point, kQuantMin, kQuantMax});
  set.matmul.prepare_row(codes.data(), /*is_signed=*/false, depth, prepared);
}

Tensor linear_dynamic_cpu(const Tensor& input, const Tensor& packed_weight,
                          const Tensor& weight_scale, const Tensor& weight_sum,
                          const std::optional<Tensor>& bias, std::string_view activation) {
  check_linear_dynamic(input, packed_weight, weight_scale, weight_sum, bias, activation);
  const int64_t out_features = weight_scale.size(0);
  const Tensor out = new_rows(input, out_features, input.scalar_type());
  if (out.numel() == 0) return out;
  const Tensor x = input.contiguous();
  const Tensor weight = packed_weight.contiguous();
  const Tensor scales = weight_scale.contiguous();
  const Tensor sums = weight_sum.contiguous();
  const Tensor biases = bias ? bias->contiguous() : Tensor();
  const int64_t rows = out.numel() / out_features;
  TokenParams params = {std::vector<float>(rows), std::vector<int32_t>(rows)};
  const kernels::Epilogue epilogue = {
      params.zero_point.data(),       nullptr,
      sums.const_data_ptr<int32_t>(), params.scale.data(),
      scales.const_data_ptr<float>(), bias ? biases.const_data_ptr<float>() : nullptr,
      check_activation(activation),   kernel_output(input.scalar_type())};
  run({rows, x.size(-1), out_features, weight.const_data_ptr<int8_t>(), epilogue,
       out.mutable_data_ptr(), out.element_size()},
      [&](int64_t m, void* prepared) { prepare_token(x, m, params, prepared); });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CPU, m) { m.impl("linear_dynamic", &linear_dynamic_cpu); }

}  // namespace torchquant::ops
