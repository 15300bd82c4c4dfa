#include <torch/library.h>

#include "channels.h"
#include "outputs.h"

namespace torchquant::ops {
namespace {

void dequantize_runs(const Tensor& q, const Tensor& x, const ChannelView& view,
                     const ChannelParams& params) {
  const kernels::Kernels& set = kernels_for(params.zero_point);
  const auto from = kernel_int(q.scalar_type());
  const auto to = kernel_float(x.scalar_type());
  for_each_run(view, [&](int64_t begin, int64_t end, int64_t channel) {
    set.dequantize.span(element(q, begin), from, mutable_element(x, begin), to, end - begin,
                        params.scale[channel], params.zero_point[channel]);
  });
}

void dequantize_periods(const Tensor& q, const Tensor& x, const ChannelView& view,
                        const ChannelParams& params) {
  const kernels::Kernels& set = kernels_for(params.zero_point);
  const ChannelParams repeated = repeat_params(params, view);
  const auto from = kernel_int(q.scalar_type());
  const auto to = kernel_float(x.scalar_type());
  const auto period = static_cast<int64_t>(repeated.scale.size());
  for_each_period(view.size(), period, [&](int64_t begin, int64_t end, int64_t offset) {
    set.dequantize.columns(element(q, begin), from, mutable_element(x, begin), to, end - begin,
                           repeated.scale.data() + offset, repeated.zero_point.data() + offset);
  });
}

Tensor dequantize(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                  const ChannelView& view, ScalarType out_dtype) {
  const Tensor q = input.contiguous();
  const Tensor x = new_like(input, out_dtype);
  if (view.size() == 0) return x;
  const ChannelParams params = read_params(scale, zero_point, view);
  if (has_long_runs(view)) {
    dequantize_runs(q, x, view, params);
  } else {
    dequantize_periods(q, x, view, params);
  }
  return x;
}

Tensor dequantize_per_tensor_cpu(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                                 ScalarType out_dtype) {
  check_dequantize(input, out_dtype);
  check_qparams_per_tensor(input, scale, zero_point);
  return dequantize(input, scale, zero_point, per_tensor_view(input), out_dtype);
}

Tensor dequantize_per_channel_cpu(const Tensor& input, const Tensor& scale,
                                  const Tensor& zero_point, int64_t axis, ScalarType out_dtype) {
  check_dequantize(input, out_dtype);
  check_qparams_per_channel(input, scale, zero_point, axis);
  const ChannelView view = per_channel_view(input, check_axis(input, axis));
  return dequantize(input, scale, zero_point, view, out_dtype);
}

Tensor dequantize_per_token_cpu(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                                ScalarType out_dtype) {
  check_dequantize(input, out_dtype);
  check_qparams_per_token(input, scale, zero_point);
  return dequantize(input, scale, zero_point, per_token_view(input), out_dtype);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CPU, m) {
  m.impl("dequantize_per_tensor", &dequantize_per_tensor_cpu);
  m.impl("dequantize_per_channel", &dequantize_per_channel_cpu);
  m.impl("dequantize_per_token", &dequantize_per_token_cpu);
}

}  // namespace torchquant::ops
