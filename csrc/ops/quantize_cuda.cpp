#include <torch/library.h>

#include "cuda_tensors.h"
#include "quantize.h"

namespace torchquant::ops {
namespace {

void quantize_into(const Tensor& q, const Tensor& input, const Tensor& scale,
                   const Tensor& zero_point, const ChannelView& view, int64_t quant_min,
                   int64_t quant_max) {
  if (input.numel() == 0) return;  // parameters of no elements may be any number
  check_aligned(q, "out");
  on_device_of(input, [&](cuda::Queue queue) {
    const DeviceElements x(input);
    const DeviceParams params(scale, zero_point);
    cuda::quantize(queue, x.elements(), kernel_float(input.scalar_type()), q.mutable_data_ptr(),
                   kernel_int(q.scalar_type()), input.numel(), channels_of(view),
                   params.params(quant_min, quant_max), 0);
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CUDA, m) {
  m.impl("quantize_per_tensor", &quantize_per_tensor<quantize_into>);
  m.impl("quantize_per_tensor.out", &quantize_per_tensor_out<quantize_into>);
  m.impl("quantize_per_channel", &quantize_per_channel<quantize_into>);
  m.impl("quantize_per_channel.out", &quantize_per_channel_out<quantize_into>);
  m.impl("quantize_per_group", &quantize_per_group<quantize_into>);
  m.impl("quantize_per_group.out", &quantize_per_group_out<quantize_into>);
  m.impl("quantize_per_token", &quantize_per_token<quantize_into>);
  m.impl("quantize_per_token.out", &quantize_per_token_out<quantize_into>);
}

}  // namespace torchquant::ops
