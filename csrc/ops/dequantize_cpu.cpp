#include <torch/library.h>

#include "channels.h"
#include "outputs.h"

namespace torchquant::ops {
namespace {

Tensor dequantize(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                  const ChannelView& view, ScalarType out_dtype) {
  const Tensor q = input.contiguous();
  const Tensor x = new_like(input, out_dtype);
  const ChannelParams params = read_params(scale, zero_point, view);
  const auto& kernel = kernels_for(params.zero_point).dequantize;
  const auto from = kernel_int(q.scalar_type());
  const auto to = kernel_float(out_dtype);
  for_each_piece(
      view, params,
      [&](int64_t begin, int64_t end, float one_scale, int32_t zero) {
        kernel.span(element(q, begin), from, mutable_element(x, begin), to, end - begin, one_scale,
                    zero);
      },
      [&](int64_t begin, int64_t end, const float* scales, const int32_t* zeros) {
        kernel.columns(element(q, begin), from, mutable_element(x, begin), to, end - begin, scales,
                       zeros);
      });
  return x;
}

Tensor dequantize_per_tensor_cpu(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                                 ScalarType out_dtype) {
  check_dequantize(input, out_dtype);
  check_qparams_per_tensor(input, scale, zero_point);
  return dequantize(input, scale, zero_point, per_tensor_view(input), out_dtype);
}

Tensor dequantize_per_channel_cpu(const Tensor& input, const Tensor& scale,
                                  const Tensor& zero_point, int64_t axis, ScalarType out_dtype) {
  check_dequantize(input, out_dtype);
  check_qparams_per_channel(input, scale, zero_point, axis);
  const ChannelView view = per_channel_view(input, check_axis(input, axis));
  return dequantize(input, scale, zero_point, view, out_dtype);
}

Tensor dequantize_per_group_cpu(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                                int64_t group_size, ScalarType out_dtype) {
  check_dequantize(input, out_dtype);
  check_qparams_per_group(input, scale, zero_point, group_size);
  return dequantize(input, scale, zero_point, per_group_view(input, group_size), out_dtype);
}

Tensor dequantize_per_token_cpu(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                                ScalarType out_dtype) {
  check_dequantize(input, out_dtype);
  check_qparams_per_token(input, scale, zero_point);
  return dequantize(input, scale, zero_point, per_token_view(input), out_dtype);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CPU, m) {
  m.impl("dequantize_per_tensor", &dequantize_per_tensor_cpu);
  m.impl("dequantize_per_channel", &dequantize_per_channel_cpu);
  m.impl("dequantize_per_group", &dequantize_per_group_cpu);
  m.impl("dequantize_per_token", &dequantize_per_token_cpu);
}

}  // namespace torchquant::ops
