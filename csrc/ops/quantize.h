// quantize_* of every granularity, over a function of the device that writes the codes.
#pragma once

#include "channels.h"
#include "memory_order.h"
#include "outputs.h"
#include "write_out.h"

namespace torchquant::ops {

// Writes the codes of `input` into q, which is dense.
using QuantizeInto = void(const Tensor& q, const Tensor& input, const Tensor& scale,
                          const Tensor& zero_point, const ChannelView& view, int64_t quant_min,
                          int64_t quant_max);

template <QuantizeInto& into>
Tensor quantize(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                const ChannelView& view, int64_t quant_min, int64_t quant_max, ScalarType dtype) {
  check_quantize(input, quant_min, quant_max, dtype);
  const Tensor q = new_like(input, dtype);
  into(q, input, scale, zero_point, view, quant_min, quant_max);
  return q;
}

template <QuantizeInto& into>
void quantize_out(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                  const ChannelView& view, int64_t quant_min, int64_t quant_max, ScalarType dtype,
                  const Tensor& out) {
  check_quantize(input, quant_min, quant_max, dtype);
  check_out(out, input, dtype);
  write_out(
      out, {{input, "input"}, {scale, "scale"}, {zero_point, "zero_point"}},
      [&](const Tensor& q) { into(q, input, scale, zero_point, view, quant_min, quant_max); });
}

template <QuantizeInto& into>
Tensor quantize_per_tensor(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                           int64_t quant_min, int64_t quant_max, ScalarType dtype) {
  return quantize<into>(input, scale, zero_point, checked_per_tensor(input, scale, zero_point),
                        quant_min, quant_max, dtype);
}

template <QuantizeInto& into>
void quantize_per_tensor_out(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                             int64_t quant_min, int64_t quant_max, ScalarType dtype, Tensor& out) {
  check_qparams_per_tensor(input, scale, zero_point);
  const MemoryOrder order(input, out);
  const Tensor x = order.of(input), q = order.of(out);
  quantize_out<into>(x, scale, zero_point, per_tensor_view(x), quant_min, quant_max, dtype, q);
}

template <QuantizeInto& into>
Tensor quantize_per_channel(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                            int64_t axis, int64_t quant_min, int64_t quant_max, ScalarType dtype) {
  return quantize<into>(input, scale, zero_point,
                        checked_per_channel(input, scale, zero_point, axis), quant_min, quant_max,
                        dtype);
}

template <QuantizeInto& into>
void quantize_per_channel_out(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                              int64_t axis, int64_t quant_min, int64_t quant_max, ScalarType dtype,
                              Tensor& out) {
  check_qparams_per_channel(input, scale, zero_point, axis);
  const MemoryOrder order(input, out);
  const Tensor x = order.of(input), q = order.of(out);
  const ChannelView view = per_channel_view(x, order.of_axis(check_axis(input, axis)));
  quantize_out<into>(x, scale, zero_point, view, quant_min, quant_max, dtype, q);
}

template <QuantizeInto& into>
Tensor quantize_per_group(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                          int64_t group_size, int64_t quant_min, int64_t quant_max,
                          ScalarType dtype) {
  return quantize<into>(input, scale, zero_point,
                        checked_per_group(input, scale, zero_point, group_size), quant_min,
                        quant_max, dtype);
}

template <QuantizeInto& into>
void quantize_per_group_out(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                            int64_t group_size, int64_t quant_min, int64_t quant_max,
                            ScalarType dtype, Tensor& out) {
  quantize_out<into>(input, scale, zero_point,
                     checked_per_group(input, scale, zero_point, group_size), quant_min, quant_max,
                     dtype, out);
}

template <QuantizeInto& into>
Tensor quantize_per_token(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                          int64_t quant_min, int64_t quant_max, ScalarType dtype) {
  return quantize<into>(input, scale, zero_point, checked_per_token(input, scale, zero_point),
                        quant_min, quant_max, dtype);
}

template <QuantizeInto& into>
void quantize_per_token_out(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                            int64_t quant_min, int64_t quant_max, ScalarType dtype, Tensor& out) {
  quantize_out<into>(input, scale, zero_point, checked_per_token(input, scale, zero_point),
                     quant_min, quant_max, dtype, out);
}

}  // namespace torchquant::ops
