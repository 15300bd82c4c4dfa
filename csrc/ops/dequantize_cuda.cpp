#include <torch/library.h>

#include "cuda_tensors.h"
#include "dequantize.h"

namespace torchquant::ops {
namespace {

void dequantize_into(const Tensor& x, const Tensor& input, const Tensor& scale,
                     const Tensor& zero_point, const ChannelView& view) {
  if (input.numel() == 0) return;  // parameters of no elements may be any number
  check_aligned(x, "out");
  on_device_of(input, [&](cuda::Queue queue) {
    const DeviceElements q(input);
    const DeviceParams all(scale, zero_point);
    const kernels::ChannelParams params = all.params(0, 0);
    cuda::dequantize(queue, q.elements(), kernel_int(input.scalar_type()), x.mutable_data_ptr(),
                     kernel_float(x.scalar_type()), input.numel(), channels_of(view), params.scale,
                     params.zero_point);
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CUDA, m) {
  m.impl("dequantize_per_tensor", &dequantize_per_tensor<dequantize_into>);
  m.impl("dequantize_per_tensor.out", &dequantize_per_tensor_out<dequantize_into>);
  m.impl("dequantize_per_channel", &dequantize_per_channel<dequantize_into>);
  m.impl("dequantize_per_channel.out", &dequantize_per_channel_out<dequantize_into>);
  m.impl("dequantize_per_group", &dequantize_per_group<dequantize_into>);
  m.impl("dequantize_per_group.out", &dequantize_per_group_out<dequantize_into>);
  m.impl("dequantize_per_token", &dequantize_per_token<dequantize_into>);
  m.impl("dequantize_per_token.out", &dequantize_per_token_out<dequantize_into>);
}

}  // namespace torchquant::ops
