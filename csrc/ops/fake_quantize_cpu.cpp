#include <torch/library.h>

#include "channels.h"
#include "memory_order.h"
#include "outputs.h"
#include "write_out.h"

namespace torchquant::ops {
namespace {

void fake_quantize_into(const Tensor& y, const Tensor& input, const Tensor& scale,
                        const Tensor& zero_point, const ChannelView& view, int64_t quant_min,
                        int64_t quant_max) {
  if (input.numel() == 0) return;  // parameters of no elements may be any number
  const Source x(input, Source::Reads::rows_or_columns);
  const Params params(scale, zero_point);
  const auto& kernel = kernels_for(params).fake_quantize;
  const auto type = kernel_float(input.scalar_type());
  const auto low = static_cast<int32_t>(quant_min), high = static_cast<int32_t>(quant_max);
  for_each_piece(
      x, view, params,
      [&](const void* data, const Runs& runs) {
        kernel.runs(data, type, mutable_element(y, runs.begin), runs.count, runs.size,
                    params.from(runs.channel, low, high));
      },
      [&](const void* data, int64_t begin, int64_t end, const float* scales,
          const int32_t* zero_points) {
        kernel.columns(data, type, mutable_element(y, begin), end - begin,
                       {scales, zero_points, low, high});
      });
}

Tensor fake_quantize_per_tensor_cpu(const Tensor& input, const Tensor& scale,
                                    const Tensor& zero_point, int64_t quant_min,
                                    int64_t quant_max) {
  check_fake_quantize(input, quant_min, quant_max);
  const ChannelView view = checked_per_tensor(input, scale, zero_point);
  const Tensor y = new_like(input, input.scalar_type());
  fake_quantize_into(y, input, scale, zero_point, view, quant_min, quant_max);
  return y;
}

Tensor fake_quantize_per_channel_cpu(const Tensor& input, const Tensor& scale,
                                     const Tensor& zero_point, int64_t axis, int64_t quant_min,
                                     int64_t quant_max) {
  check_fake_quantize(input, quant_min, quant_max);
  const ChannelView view = checked_per_channel(input, scale, zero_point, axis);
  const Tensor y = new_like(input, input.scalar_type());
  fake_quantize_into(y, input, scale, zero_point, view, quant_min, quant_max);
  return y;
}

void fake_quantize_per_tensor_out_cpu(const Tensor& input, const Tensor& scale,
                                      const Tensor& zero_point, int64_t quant_min,
                                      int64_t quant_max, Tensor& out) {
  check_fake_quantize(input, quant_min, quant_max);
  check_qparams_per_tensor(input, scale, zero_point);
  check_out(out, input, input.scalar_type());
  const MemoryOrder order(input, out);
  const Tensor x = order.of(input);
  write_out(order.of(out), {{input, "input"}, {scale, "scale"}, {zero_point, "zero_point"}},
            [&](const Tensor& y) {
              fake_quantize_into(y, x, scale, zero_point, per_tensor_view(x), quant_min, quant_max);
            });
}

void fake_quantize_per_channel_out_cpu(const Tensor& input, const Tensor& scale,
                                       const Tensor& zero_point, int64_t axis, int64_t quant_min,
                                       int64_t quant_max, Tensor& out) {
  check_fake_quantize(input, quant_min, quant_max);
  check_qparams_per_channel(input, scale, zero_point, axis);
  check_out(out, input, input.scalar_type());
  const MemoryOrder order(input, out);
  const Tensor x = order.of(input);
  const ChannelView view = per_channel_view(x, order.of_axis(check_axis(input, axis)));
  write_out(order.of(out), {{input, "input"}, {scale, "scale"}, {zero_point, "zero_point"}},
            [&](const Tensor& y) {
              fake_quantize_into(y, x, scale, zero_point, view, quant_min, quant_max);
            });
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CPU, m) {
  m.impl("fake_quantize_per_tensor", &fake_quantize_per_tensor_cpu);
  m.impl("fake_quantize_per_tensor.out", &fake_quantize_per_tensor_out_cpu);
  m.impl("fake_quantize_per_channel", &fake_quantize_per_channel_cpu);
  m.impl("fake_quantize_per_channel.out", &fake_quantize_per_channel_out_cpu);
}

}  // namespace torchquant::ops
