#include <torch/library.h>

#include "fake_quantize.h"

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

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CPU, m) {
  m.impl("fake_quantize_per_tensor", &fake_quantize_per_tensor<fake_quantize_into>);
  m.impl("fake_quantize_per_tensor.out", &fake_quantize_per_tensor_out<fake_quantize_into>);
  m.impl("fake_quantize_per_channel", &fake_quantize_per_channel<fake_quantize_into>);
  m.impl("fake_quantize_per_channel.out", &fake_quantize_per_channel_out<fake_quantize_into>);
}

}  // namespace torchquant::ops
