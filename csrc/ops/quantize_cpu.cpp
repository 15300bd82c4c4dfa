#include <torch/library.h>

#include "channels.h"
#include "outputs.h"

namespace torchquant::ops {
namespace {

struct CodeRange {
  int32_t min;
  int32_t max;
};

void quantize_runs(const Tensor& x, const Tensor& q, const ChannelView& view,
                   const ChannelParams& params, CodeRange range) {
  const kernels::Kernels& set = kernels_for(params.zero_point);
  const auto from = kernel_float(x.scalar_type());
  const auto to = kernel_int(q.scalar_type());
  for_each_run(view, [&](int64_t begin, int64_t end, int64_t channel) {
    set.quantize.span(
        element(x, begin), from, mutable_element(q, begin), to, end - begin,
        {1.0f / params.scale[channel], params.zero_point[channel], range.min, range.max});
  });
}

void quantize_periods(const Tensor& x, const Tensor& q, const ChannelView& view,
                      const ChannelParams& params, CodeRange range) {
  const kernels::Kernels& set = kernels_for(params.zero_point);
  ChannelParams repeated = repeat_params(params, view);
  for (float& scale : repeated.scale) scale = 1.0f / scale;
  const auto from = kernel_float(x.scalar_type());
  const auto to = kernel_int(q.scalar_type());
  const auto period = static_cast<int64_t>(repeated.scale.size());
  for_each_period(view.size(), period, [&](int64_t begin, int64_t end, int64_t offset) {
    set.quantize.columns(element(x, begin), from, mutable_element(q, begin), to, end - begin,
                         repeated.scale.data() + offset, repeated.zero_point.data() + offset,
                         range.min, range.max);
  });
}

Tensor quantize(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                const ChannelView& view, int64_t quant_min, int64_t quant_max, ScalarType dtype) {
  const Tensor x = input.contiguous();
  const Tensor q = new_like(input, dtype);
  if (view.size() == 0) return q;
  const ChannelParams params = read_params(scale, zero_point, view);
  const CodeRange range = {static_cast<int32_t>(quant_min), static_cast<int32_t>(quant_max)};
  if (has_long_runs(view)) {
    quantize_runs(x, q, view, params, range);
  } else {
    quantize_periods(x, q, view, params, range);
  }
  return q;
}

Tensor quantize_per_tensor_cpu(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                               int64_t quant_min, int64_t quant_max, ScalarType dtype) {
  check_quantize(input, quant_min, quant_max, dtype);
  check_qparams_per_tensor(input, scale, zero_point);
  return quantize(input, scale, zero_point, per_tensor_view(input), quant_min, quant_max, dtype);
}

Tensor quantize_per_channel_cpu(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                                int64_t axis, int64_t quant_min, int64_t quant_max,
                                ScalarType dtype) {
  check_quantize(input, quant_min, quant_max, dtype);
  check_qparams_per_channel(input, scale, zero_point, axis);
  const ChannelView view = per_channel_view(input, check_axis(input, axis));
  return quantize(input, scale, zero_point, view, quant_min, quant_max, dtype);
}

Tensor quantize_per_token_cpu(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                              int64_t quant_min, int64_t quant_max, ScalarType dtype) {
  check_quantize(input, quant_min, quant_max, dtype);
  check_qparams_per_token(input, scale, zero_point);
  return quantize(input, scale, zero_point, per_token_view(input), quant_min, quant_max, dtype);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CPU, m) {
  m.impl("quantize_per_tensor", &quantize_per_tensor_cpu);
  m.impl("quantize_per_channel", &quantize_per_channel_cpu);
  m.impl("quantize_per_token", &quantize_per_token_cpu);
}

}  // namespace torchquant::ops
