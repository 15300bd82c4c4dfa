#include <torch/library.h>

#include "channels.h"
#include "outputs.h"
#include "write_out.h"

namespace torchquant::ops {
namespace {

void quantize_into(const Tensor& q, const Tensor& input, const Tensor& scale,
                   const Tensor& zero_point, const ChannelView& view, int64_t quant_min,
                   int64_t quant_max) {
  const Tensor x = input.contiguous();
  ChannelParams params = read_params(scale, zero_point, view);
  for (float& value : params.scale) value = 1.0f / value;
  const auto& kernel = kernels_for(params.zero_point).quantize;
  const auto from = kernel_float(x.scalar_type());
  const auto to = kernel_int(q.scalar_type());
  const auto low = static_cast<int32_t>(quant_min), high = static_cast<int32_t>(quant_max);
  for_each_piece(
      view, params,
      [&](int64_t begin, int64_t end, float inv_scale, int32_t zero) {
        kernel.span(element(x, begin), from, mutable_element(q, begin), to, end - begin,
                    {inv_scale, zero, low, high});
      },
      [&](int64_t begin, int64_t end, const float* inv_scales, const int32_t* zeros) {
        kernel.columns(element(x, begin), from, mutable_element(q, begin), to, end - begin,
                       inv_scales, zeros, low, high);
      });
}

Tensor quantize(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                const ChannelView& view, int64_t quant_min, int64_t quant_max, ScalarType dtype) {
  check_quantize(input, quant_min, quant_max, dtype);
  const Tensor q = new_like(input, dtype);
  quantize_into(q, input, scale, zero_point, view, quant_min, quant_max);
  return q;
}

void quantize_out(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                  const ChannelView& view, int64_t quant_min, int64_t quant_max, ScalarType dtype,
                  Tensor& out) {
  check_quantize(input, quant_min, quant_max, dtype);
  check_out(out, input, dtype);
  write_out(out, {input, scale, zero_point}, [&](const Tensor& q) {
    quantize_into(q, input, scale, zero_point, view, quant_min, quant_max);
  });
}

Tensor quantize_per_tensor_cpu(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                               int64_t quant_min, int64_t quant_max, ScalarType dtype) {
  return quantize(input, scale, zero_point, checked_per_tensor(input, scale, zero_point), quant_min,
                  quant_max, dtype);
}

void quantize_per_tensor_out_cpu(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                                 int64_t quant_min, int64_t quant_max, ScalarType dtype,
                                 Tensor& out) {
  quantize_out(input, scale, zero_point, checked_per_tensor(input, scale, zero_point), quant_min,
               quant_max, dtype, out);
}

Tensor quantize_per_channel_cpu(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                                int64_t axis, int64_t quant_min, int64_t quant_max,
                                ScalarType dtype) {
  return quantize(input, scale, zero_point, checked_per_channel(input, scale, zero_point, axis),
                  quant_min, quant_max, dtype);
}

void quantize_per_channel_out_cpu(const Tensor& input, const Tensor& scale,
                                  const Tensor& zero_point, int64_t axis, int64_t quant_min,
                                  int64_t quant_max, ScalarType dtype, Tensor& out) {
  quantize_out(input, scale, zero_point, checked_per_channel(input, scale, zero_point, axis),
               quant_min, quant_max, dtype, out);
}

Tensor quantize_per_group_cpu(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                              int64_t group_size, int64_t quant_min, int64_t quant_max,
                              ScalarType dtype) {
  return quantize(input, scale, zero_point, checked_per_group(input, scale, zero_point, group_size),
                  quant_min, quant_max, dtype);
}

void quantize_per_group_out_cpu(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                                int64_t group_size, int64_t quant_min, int64_t quant_max,
                                ScalarType dtype, Tensor& out) {
  quantize_out(input, scale, zero_point, checked_per_group(input, scale, zero_point, group_size),
               quant_min, quant_max, dtype, out);
}

Tensor quantize_per_token_cpu(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                              int64_t quant_min, int64_t quant_max, ScalarType dtype) {
  return quantize(input, scale, zero_point, checked_per_token(input, scale, zero_point), quant_min,
                  quant_max, dtype);
}

void quantize_per_token_out_cpu(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                                int64_t quant_min, int64_t quant_max, ScalarType dtype,
                                Tensor& out) {
  quantize_out(input, scale, zero_point, checked_per_token(input, scale, zero_point), quant_min,
               quant_max, dtype, out);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CPU, m) {
  m.impl("quantize_per_tensor", &quantize_per_tensor_cpu);
  m.impl("quantize_per_tensor.out", &quantize_per_tensor_out_cpu);
  m.impl("quantize_per_channel", &quantize_per_channel_cpu);
  m.impl("quantize_per_channel.out", &quantize_per_channel_out_cpu);
  m.impl("quantize_per_group", &quantize_per_group_cpu);
  m.impl("quantize_per_group.out", &quantize_per_group_out_cpu);
  m.impl("quantize_per_token", &quantize_per_token_cpu);
  m.impl("quantize_per_token.out", &quantize_per_token_out_cpu);
}

}  // namespace torchquant::ops
