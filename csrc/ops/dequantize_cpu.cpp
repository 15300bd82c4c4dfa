#include <torch/library.h>

#include "dequantize.h"

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

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CPU, m) {
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
