// dequantize_* of every granularity, over a function of the device that writes the values.
#pragma once

#include "channels.h"
#include "memory_order.h"
#include "outputs.h"
#include "write_out.h"

namespace torchquant::ops {

// Writes the values of the codes `input` into x, which is dense.
using DequantizeInto = void(const Tensor& x, const Tensor& input, const Tensor& scale,
                            const Tensor& zero_point, const ChannelView& view);

template <DequantizeInto& into>
Tensor dequantize(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                  const ChannelView& view, ScalarType out_dtype) {
  check_dequantize(input, out_dtype);
  const Tensor x = new_like(input, out_dtype);
  into(x, input, scale, zero_point, view);
  return x;
}

template <DequantizeInto& into>
void dequantize_out(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                    const ChannelView& view, ScalarType out_dtype, const Tensor& out) {
  check_dequantize(input, out_dtype);
  check_out(out, input, out_dtype);
  write_out(out, {{input, "input"}, {scale, "scale"}, {zero_point, "zero_point"}},
            [&](const Tensor& x) { into(x, input, scale, zero_point, view); });
}

template <DequantizeInto& into>
Tensor dequantize_per_tensor(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                             ScalarType out_dtype) {
  return dequantize<into>(input, scale, zero_point, checked_per_tensor(input, scale, zero_point),
                          out_dtype);
}

template <DequantizeInto& into>
void dequantize_per_tensor_out(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                               ScalarType out_dtype, Tensor& out) {
  check_qparams_per_tensor(input, scale, zero_point);
  const MemoryOrder order(input, out);
  const Tensor q = order.of(input), x = order.of(out);
  dequantize_out<into>(q, scale, zero_point, per_tensor_view(q), out_dtype, x);
}

template <DequantizeInto& into>
Tensor dequantize_per_channel(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                              int64_t axis, ScalarType out_dtype) {
  return dequantize<into>(input, scale, zero_point,
                          checked_per_channel(input, scale, zero_point, axis), out_dtype);
}

template <DequantizeInto& into>
void dequantize_per_channel_out(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                                int64_t axis, ScalarType out_dtype, Tensor& out) {
  check_qparams_per_channel(input, scale, zero_point, axis);
  const MemoryOrder order(input, out);
  const Tensor q = order.of(input), x = order.of(out);
  const ChannelView view = per_channel_view(q, order.of_axis(check_axis(input, axis)));
  dequantize_out<into>(q, scale, zero_point, view, out_dtype, x);
}

template <DequantizeInto& into>
Tensor dequantize_per_group(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                            int64_t group_size, ScalarType out_dtype) {
  return dequantize<into>(input, scale, zero_point,
                          checked_per_group(input, scale, zero_point, group_size), out_dtype);
}

template <DequantizeInto& into>
void dequantize_per_group_out(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                              int64_t group_size, ScalarType out_dtype, Tensor& out) {
  dequantize_out<into>(input, scale, zero_point,
                       checked_per_group(input, scale, zero_point, group_size), out_dtype, out);
}

template <DequantizeInto& into>
Tensor dequantize_per_token(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                            ScalarType out_dtype) {
  return dequantize<into>(input, scale, zero_point, checked_per_token(input, scale, zero_point),
                          out_dtype);
}

template <DequantizeInto& into>
void dequantize_per_token_out(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                              ScalarType out_dtype, Tensor& out) {
  dequantize_out<into>(input, scale, zero_point, checked_per_token(input, scale, zero_point),
                       out_dtype, out);
}

}  // namespace torchquant::ops
