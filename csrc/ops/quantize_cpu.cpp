#include <torch/library.h>

#include "quantize.h"

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

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CPU, m) {
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
