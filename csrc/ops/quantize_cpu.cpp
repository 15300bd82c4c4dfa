#include <torch/library.h>

#include "channels.h"
#include "memory_order.h"
#include "outputs.h"
#include "write_out.h"

namespace torchquant::ops {
namespace {

void quantize_into(const Tensor& q, const Tensor& input, const Tensor& scale,
                   const Tensor& zero_point, const ChannelView& view, int64_t quant_min,
                   int64_t quant_max) {
  if (input.numel() == 0) return;  // parameters of no elements may be any number
  const Source x(input, Source::Reads::rows_or_columns);
  const Params params(scale, zero_point);
  const auto& kernel = kernels_for(params).quantize;
  const auto from = kernel_float(input.scalar_type());
  const auto to = kernel_int(q.scalar_type());
  const auto low = static_cast<int32_t>(quant_min), high = static_cast<int32_t>(quant_max);
  for_each_piece(
      x, view, params,
      [&](const void* data, const Runs& runs) {
        kernel.runs(data, from, mutable_element(q, runs.begin), to, runs.count, runs.size,
                    params.from(runs.channel, low, high));
      },
      [&](const void* data, int64_t begin, int64_t end, const float* scales,
          const int32_t* zero_points) {
        kernel.columns(data, from, mutable_element(q, begin), to, end - begin,
                       {scales, zero_points, low, high});
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
                  const Tensor& out) {
  check_quantize(input, quant_min, quant_max, dtype);
  check_out(out, input, dtype);
  write_out(out, {{input, "input"}, {scale, "scale"}, {zero_point, "zero_point"}},
            [&](const Tensor& q) {
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
  check_qparams_per_tensor(input, scale, zero_point);
  const MemoryOrder order(input, out);
  const Tensor x = order.of(input), q = order.of(out);
  quantize_out(x, scale, zero_point, per_tensor_view(x), quant_min, quant_max, dtype, q);
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
  check_qparams_per_channel(input, scale, zero_point, axis);
  const MemoryOrder order(input, out);
  const Tensor x = order.of(input), q = order.of(out);
  const ChannelView view = per_channel_view(x, order.of_axis(check_axis(input, axis)));
  quantize_out(x, scale, zero_point, view, quant_min, quant_max, dtype, q);
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
