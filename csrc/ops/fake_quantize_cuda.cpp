#include <torch/library.h>

#include "cuda_tensors.h"
#include "fake_quantize.h"

namespace torchquant::ops {
namespace {

void fake_quantize_into(const Tensor& y, const Tensor& input, const Tensor& scale,
                        const Tensor& zero_point, const ChannelView& view, int64_t quant_min,
                        int64_t quant_max) {
  if (input.numel() == 0) return;  // parameters of no elements may be any number
  check_aligned(y, "out");
  on_device_of(input, [&](cuda::Queue queue) {
    const DeviceElements x(input);
    const DeviceParams params(scale, zero_point);
    cuda::fake_quantize(queue, x.elements(), kernel_float(input.scalar_type()),
                        y.mutable_data_ptr(), input.numel(), channels_of(view),
                        params.params(quant_min, quant_max));
  });
}

void write_input_gradient(cuda::Queue queue, const FakeQuantizeGradients& gradients,
                          const Tensor& input, const ChannelView& view,
                          const kernels::ChannelParams& params) {
  if (input.numel() == 0) return;
  const DeviceElements x(input);
  const Tensor output = aligned(gradients.output);
  cuda::fake_quantize_backward(
      queue, output.const_data_ptr(), x.elements(), kernel_float(input.scalar_type()),
      gradients.input.mutable_data_ptr(), input.numel(), channels_of(view), params);
}

void write_both_gradients(cuda::Queue queue, const FakeQuantizeGradients& gradients,
                          const Tensor& input, const ChannelView& view,
                          const kernels::ChannelParams& params) {
  const Tensor x = dense(input), output = aligned(gradients.output);
  const cuda::Channels channels = channels_of(view);
  const int64_t sums = cuda::sum_blocks(channels) * channels.count;
  const Tensor lanes = at::empty({sums * kernels::kSumLanes}, input.options().dtype(at::kDouble));
  const Tensor blocks = at::empty({sums}, lanes.options());
  cuda::fake_quantize_gradients(
      queue,
      {output.const_data_ptr(), x.const_data_ptr(), gradients.input.mutable_data_ptr(),
       kernel_float(input.scalar_type())},
      channels, params, lanes.mutable_data_ptr<double>(), blocks.mutable_data_ptr<double>(),
      gradients.scale.mutable_data_ptr<float>());
}

void write_gradients(const FakeQuantizeGradients& gradients, const Tensor& input,
                     const Tensor& scale, const Tensor& zero_point, const ChannelView& view,
                     int64_t quant_min, int64_t quant_max) {
  on_device_of(input, [&](cuda::Queue queue) {
    const DeviceParams params(scale, zero_point);
    const auto write = gradients.with_scale ? write_both_gradients : write_input_gradient;
    write(queue, gradients, input, view, params.params(quant_min, quant_max));
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CUDA, m) {
  m.impl("fake_quantize_per_tensor", &fake_quantize_per_tensor<fake_quantize_into>);
  m.impl("fake_quantize_per_tensor.out", &fake_quantize_per_tensor_out<fake_quantize_into>);
  m.impl("fake_quantize_per_channel", &fake_quantize_per_channel<fake_quantize_into>);
  m.impl("fake_quantize_per_channel.out", &fake_quantize_per_channel_out<fake_quantize_into>);
  m.impl("fake_quantize_per_tensor_backward", &fake_quantize_per_tensor_backward<write_gradients>);
  m.impl("fake_quantize_per_channel_backward",
         &fake_quantize_per_channel_backward<write_gradients>);
}

}  // namespace torchquant::ops
