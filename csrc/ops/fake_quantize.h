// fake_quantize_* of every granularity and their backward, over functions of the device that write
// the values and the gradients.
#pragma once

#include "channels.h"
#include "memory_order.h"
#include "outputs.h"
#include "write_out.h"

namespace torchquant::ops {

// Writes the values of `input` into y, which is dense.
using FakeQuantizeInto = void(const Tensor& y, const Tensor& input, const Tensor& scale,
                              const Tensor& zero_point, const ChannelView& view, int64_t quant_min,
                              int64_t quant_max);

template <FakeQuantizeInto& into>
Tensor fake_quantize_per_tensor(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                                int64_t quant_min, int64_t quant_max) {
  check_fake_quantize(input, quant_min, quant_max);
  const ChannelView view = checked_per_tensor(input, scale, zero_point);
  const Tensor y = new_like(input, input.scalar_type());
  into(y, input, scale, zero_point, view, quant_min, quant_max);
  return y;
}

template <FakeQuantizeInto& into>
Tensor fake_quantize_per_channel(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                                 int64_t axis, int64_t quant_min, int64_t quant_max) {
  check_fake_quantize(input, quant_min, quant_max);
  const ChannelView view = checked_per_channel(input, scale, zero_point, axis);
  const Tensor y = new_like(input, input.scalar_type());
  into(y, input, scale, zero_point, view, quant_min, quant_max);
  return y;
}

template <FakeQuantizeInto& into>
void fake_quantize_per_tensor_out(const Tensor& input, const Tensor& scale,
                                  const Tensor& zero_point, int64_t quant_min, int64_t quant_max,
                                  Tensor& out) {
  check_fake_quantize(input, quant_min, quant_max);
  check_qparams_per_tensor(input, scale, zero_point);
  check_out(out, input, input.scalar_type());
  const MemoryOrder order(input, out);
  const Tensor x = order.of(input);
  write_out(order.of(out), {{input, "input"}, {scale, "scale"}, {zero_point, "zero_point"}},
            [&](const Tensor& y) {
              into(y, x, scale, zero_point, per_tensor_view(x), quant_min, quant_max);
            });
}

template <FakeQuantizeInto& into>
void fake_quantize_per_channel_out(const Tensor& input, const Tensor& scale,
                                   const Tensor& zero_point, int64_t axis, int64_t quant_min,
                                   int64_t quant_max, Tensor& out) {
  check_fake_quantize(input, quant_min, quant_max);
  check_qparams_per_channel(input, scale, zero_point, axis);
  check_out(out, input, input.scalar_type());
  const MemoryOrder order(input, out);
  const Tensor x = order.of(input);
  const ChannelView view = per_channel_view(x, order.of_axis(check_axis(input, axis)));
  write_out(order.of(out), {{input, "input"}, {scale, "scale"}, {zero_point, "zero_point"}},
            [&](const Tensor& y) { into(y, x, scale, zero_point, view, quant_min, quant_max); });
}

// The gradients of `input`, dense, and of `scale` where that is asked for.
struct FakeQuantizeGradients {
  Tensor output;  // given, dense
  Tensor input;
  Tensor scale;
  bool with_scale;
};
using WriteGradients = void(const FakeQuantizeGradients& gradients, const Tensor& input,
                            const Tensor& scale, const Tensor& zero_point, const ChannelView& view,
                            int64_t quant_min, int64_t quant_max);

template <WriteGradients& write>
std::tuple<Tensor, Tensor> run_backward(const Tensor& grad, const Tensor& input,
                                        const Tensor& scale, const Tensor& zero_point,
                                        const ChannelView& view, int64_t quant_min,
                                        int64_t quant_max, bool scale_requires_grad) {
  const auto gradients = new_gradients(input, scale, scale_requires_grad);
  write({grad.contiguous(), std::get<0>(gradients), std::get<1>(gradients), scale_requires_grad},
        input, scale, zero_point, view, quant_min, quant_max);
  return gradients;
}

template <WriteGradients& write>
std::tuple<Tensor, Tensor> fake_quantize_per_tensor_backward(
    const Tensor& grad, const Tensor& input, const Tensor& scale, const Tensor& zero_point,
    int64_t quant_min, int64_t quant_max, bool scale_requires_grad) {
  check_fake_quantize_backward(grad, input, quant_min, quant_max);
  return run_backward<write>(grad, input, scale, zero_point,
                             checked_per_tensor(input, scale, zero_point), quant_min, quant_max,
                             scale_requires_grad);
}

template <WriteGradients& write>
std::tuple<Tensor, Tensor> fake_quantize_per_channel_backward(
    const Tensor& grad, const Tensor& input, const Tensor& scale, const Tensor& zero_point,
    int64_t axis, int64_t quant_min, int64_t quant_max, bool scale_requires_grad) {
  check_fake_quantize_backward(grad, input, quant_min, quant_max);
  return run_backward<write>(grad, input, scale, zero_point,
                             checked_per_channel(input, scale, zero_point, axis), quant_min,
                             quant_max, scale_requires_grad);
}

}  // namespace torchquant::ops
