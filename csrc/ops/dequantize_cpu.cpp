#include <torch/library.h>

#include "channels.h"
#include "memory_order.h"
#include "outputs.h"
#include "write_out.h"

namespace torchquant::ops {
namespace {

void dequantize_into(const Tensor& x, const Tensor& input, const Tensor& scale,
                     const Tensor& zero_point, const ChannelView& view) {
  if (input.numel() == 0) return;  // parameters of no elements may be any number
  const Source q(input, Source::Reads::rows_or_columns);
  const Params params(scale, zero_point);
  const auto& kernel = kernels_for(params).dequantize;
  const auto from = kernel_int(input.scalar_type());
  const auto to = kernel_float(x.scalar_type());
  for_each_piece(
      q, view, params,
      [&](const void* data, const Runs& runs) {
        const auto channels = params.from(runs.channel, 0, 0);
        kernel.runs(data, from, mutable_element(x, runs.begin), to, runs.count, runs.size,
                    channels.scale, channels.zero_point);
      },
      [&](const void* data, int64_t begin, int64_t end, const float* scales,
          const int32_t* zero_points) {
        kernel.columns(data, from, mutable_element(x, begin), to, end - begin, scales, zero_points);
      });
}

Tensor dequantize(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                  const ChannelView& view, ScalarType out_dtype) {
  check_dequantize(input, out_dtype);
  const Tensor x = new_like(input, out_dtype);
  dequantize_into(x, input, scale, zero_point, view);
  return x;
}

void dequantize_out(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                    const ChannelView& view, ScalarType out_dtype, const Tensor& out) {
  check_dequantize(input, out_dtype);
  check_out(out, input, out_dtype);
  write_out(out, {{input, "input"}, {scale, "scale"}, {zero_point, "zero_point"}},
            [&](const Tensor& x) { dequantize_into(x, input, scale, zero_point, view); });
}

Tensor dequantize_per_tensor_cpu(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                                 ScalarType out_dtype) {
  return dequantize(input, scale, zero_point, checked_per_tensor(input, scale, zero_point),
                    out_dtype);
}

void dequantize_per_tensor_out_cpu(const Tensor& input, const Tensor& scale,
                                   const Tensor& zero_point, ScalarType out_dtype, Tensor& out) {
  check_qparams_per_tensor(input, scale, zero_point);
  const MemoryOrder order(input, out);
  const Tensor q = order.of(input), x = order.of(out);
  dequantize_out(q, scale, zero_point, per_tensor_view(q), out_dtype, x);
}

Tensor dequantize_per_channel_cpu(const Tensor& input, const Tensor& scale,
                                  const Tensor& zero_point, int64_t axis, ScalarType out_dtype) {
  return dequantize(input, scale, zero_point, checked_per_channel(input, scale, zero_point, axis),
                    out_dtype);
}

void dequantize_per_channel_out_cpu(const Tensor& input, const Tensor& scale,
                                    const Tensor& zero_point, int64_t axis, ScalarType out_dtype,
                                    Tensor& out) {
  check_qparams_per_channel(input, scale, zero_point, axis);
  const MemoryOrder order(input, out);
  const Tensor q = order.of(input), x = order.of(out);
  const ChannelView view = per_channel_view(q, order.of_axis(check_axis(input, axis)));
  dequantize_out(q, scale, zero_point, view, out_dtype, x);
}

Tensor dequantize_per_group_cpu(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                                int64_t group_size, ScalarType out_dtype) {
  return dequantize(input, scale, zero_point,
                    checked_per_group(input, scale, zero_point, group_size), out_dtype);
}

void dequantize_per_group_out_cpu(const Tensor& input, const Tensor& scale,
                                  const Tensor& zero_point, int64_t group_size,
                                  ScalarType out_dtype, Tensor& out) {
  dequantize_out(input, scale, zero_point, checked_per_group(input, scale, zero_point, group_size),
                 out_dtype, out);
}

Tensor dequantize_per_token_cpu(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                                ScalarType out_dtype) {
  return dequantize(input, scale, zero_point, checked_per_token(input, scale, zero_point),
                    out_dtype);
}

void dequantize_per_token_out_cpu(const Tensor& input, const Tensor& scale,
                                  const Tensor& zero_point, ScalarType out_dtype, Tensor& out) {
  dequantize_out(input, scale, zero_point, checked_per_token(input, scale, zero_point), out_dtype,
                 out);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CPU, m) {
  m.impl("dequantize_per_tensor", &dequantize_per_tensor_cpu);
  m.impl("dequantize_per_tensor.out", &dequantize_per_tensor_out_cpu);
  m.impl("dequantize_per_channel", &dequantize_per_channel_cpu);
  m.impl("dequantize_per_channel.out", &dequantize_per_channel_out_cpu);
  m.impl("dequantize_per_group", &dequantize_per_group_cpu);
  m.impl("dequantize_per_group.out", &dequantize_per_group_out_cpu);
  m.impl("dequantize_per_token", &dequantize_per_token_cpu);
  m.impl("dequantize_per_token.out", &dequantize_per_token_out_cpu);
}

}  // namespace torchquant::ops
