#include <torch/library.h>

#include "cuda_tensors.h"
#include "quantize_dynamic.h"

namespace torchquant::ops {
namespace {

// One after the other: for channels so few or so long that a block each would leave others idle.
void choose_and_quantize(const Tensor& input, const ChannelView& view,
                         const kernels::ChosenCodes& codes, const Quantized& result) {
  const auto& [q, scale, zero_point] = result;
  const Tensor x = dense(input);
  on_device_of(x, [&](cuda::Queue queue) {
    choose_on_device(queue, x, view, codes, scale, zero_point);
    cuda::quantize(queue, {x.const_data_ptr(), x.numel(), x.numel()}, kernel_float(x.scalar_type()),
                   q.mutable_data_ptr(), kernel_int(q.scalar_type()), x.numel(), channels_of(view),
                   DeviceParams(scale, zero_point).params(codes.quant_min, codes.quant_max), 0);
  });
}

void quantize_rows(const Tensor& input, int64_t group_size, int64_t groups,
                   const kernels::ChosenCodes& codes, const Quantized& result) {
  constexpr int64_t kLong = int64_t{1} << 16, kMany = 64;
  const auto& [q, scale, zero_point] = result;
  const int64_t row = input.size(-1), rows = row_count(input);
  if (group_size > kLong && rows * groups < kMany) {
    return choose_and_quantize(input, per_group_view(input, group_size), codes, result);
  }
  on_device_of(input, [&](cuda::Queue queue) {
    const DeviceElements x(input);
    cuda::quantize_rows(queue, {x.elements(), rows, row, group_size, groups},
                        kernel_float(input.scalar_type()), q.mutable_data_ptr(), row,
                        kernel_int(q.scalar_type()), codes, 0, scale.mutable_data_ptr<float>(),
                        zero_point.mutable_data_ptr<int32_t>());
  });
}

Quantized quantize_dynamic_per_tensor_cuda(const Tensor& input, int64_t quant_min,
                                           int64_t quant_max, bool symmetric, ScalarType dtype) {
  check_quantize_dynamic(input, quant_min, quant_max, symmetric, dtype);
  const Quantized result = new_quantized(input, dtype, new_qparams_per_tensor(input));
  choose_and_quantize(input, per_tensor_view(input), chosen_codes(quant_min, quant_max, symmetric),
                      result);
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CUDA, m) {
  m.impl("quantize_dynamic_per_tensor", &quantize_dynamic_per_tensor_cuda);
  m.impl("quantize_dynamic_per_token", &quantize_dynamic_per_token<quantize_rows>);
  m.impl("quantize_dynamic_per_group", &quantize_dynamic_per_group<quantize_rows>);
}

}  // namespace torchquant::ops
