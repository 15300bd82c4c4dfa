// One view for every granularity: contiguous data as [outer, channels, inner] with a scale and a
// zero point for each channel. per_tensor is one channel, per_token has one for each row.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "kernel_types.h"

namespace torchquant::ops {

struct ChannelView {
  int64_t outer;
  int64_t channels;
  int64_t inner;

  int64_t size() const { return outer * channels * inner; }
};

inline ChannelView per_tensor_view(const at::Tensor& input) { return {1, 1, input.numel()}; }

inline ChannelView per_channel_view(const at::Tensor& input, int64_t axis) {
  return {c10::multiply_integers(input.sizes().slice(0, axis)), input.size(axis),
          c10::multiply_integers(input.sizes().slice(axis + 1))};
}

inline ChannelView per_token_view(const at::Tensor& input) {
  return {1, c10::multiply_integers(input.sizes().slice(0, input.dim() - 1)), input.size(-1)};
}

// Host copies of scale and zero_point, a pair for each channel.
struct ChannelParams {
  std::vector<float> scale;
  std::vector<int32_t> zero_point;
};

inline ChannelParams read_params(const at::Tensor& scale, const at::Tensor& zero_point,
                                 const ChannelView& view) {
  ChannelParams params = {std::vector<float>(view.channels), std::vector<int32_t>(view.channels)};
  // memcpy: tensors from files lie at any address.
  if (view.channels > 0) {
    std::memcpy(params.scale.data(), scale.contiguous().const_data_ptr(),
                params.scale.size() * sizeof(float));
    std::memcpy(params.zero_point.data(), zero_point.contiguous().const_data_ptr(),
                params.zero_point.size() * sizeof(int32_t));
  }
  return params;
}

// The active kernels, or the scalar ones where a zero point is beyond what vectors compute exactly.
inline const kernels::Kernels& kernels_for(c10::ArrayRef<int32_t> zero_point) {
  const bool ordinary = std::all_of(zero_point.begin(), zero_point.end(), [](int32_t zero) {
    return -kernels::kVectorZeroPoint <= zero && zero <= kernels::kVectorZeroPoint;
  });
  return ordinary ? kernels::active() : kernels::scalar();
}

// Runs of one channel shorter than this are walked across channels, a parameter for each element.
inline constexpr int64_t kShortRun = 16;

inline bool has_long_runs(const ChannelView& view) {
  return view.channels <= 1 || view.inner >= kShortRun;
}

// Calls span(begin, end, channel) for runs of one channel that together cover the data, in
// parallel.
template <class Span>
void for_each_run(const ChannelView& view, Span span) {
  at::parallel_for(0, view.size(), kGrain, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t run = begin / view.inner;
      const int64_t run_end = std::min(end, (run + 1) * view.inner);
      span(begin, run_end, run % view.channels);
      begin = run_end;
    }
  });
}

// Parameters repeated for each element of a period of the data that many vectors long.
inline ChannelParams repeat_params(const ChannelParams& params, const ChannelView& view) {
  constexpr int64_t kPeriod = 1024;
  const int64_t width = view.channels * view.inner;
  const int64_t repeats = std::min(view.outer, (kPeriod + width - 1) / width);
  ChannelParams repeated;
  repeated.scale.reserve(repeats * width);
  repeated.zero_point.reserve(repeats * width);
  for (int64_t i = 0; i < repeats * view.channels; ++i) {
    const int64_t channel = i % view.channels;
    repeated.scale.insert(repeated.scale.end(), view.inner, params.scale[channel]);
    repeated.zero_point.insert(repeated.zero_point.end(), view.inner, params.zero_point[channel]);
  }
  return repeated;
}

// Calls columns(begin, end, offset) for pieces of the data whose parameters begin at `offset` of a
// period, in parallel.
template <class Columns>
void for_each_period(int64_t size, int64_t period, Columns columns) {
  at::parallel_for(0, size, kGrain, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t offset = begin % period;
      const int64_t piece_end = std::min(end, begin - offset + period);
      columns(begin, piece_end, offset);
      begin = piece_end;
    }
  });
}

// Covers the data with pieces of one channel, span(begin, end, scale, zero_point), or, where
// channels alternate too fast for that, of many: columns(begin, end, scales, zero_points).
template <class Span, class Columns>
void for_each_piece(const ChannelView& view, const ChannelParams& params, Span span,
                    Columns columns) {
  if (view.size() == 0) return;
  if (has_long_runs(view)) {
    return for_each_run(view, [&](int64_t begin, int64_t end, int64_t channel) {
      span(begin, end, params.scale[channel], params.zero_point[channel]);
    });
  }
  const ChannelParams repeated = repeat_params(params, view);
  const auto period = static_cast<int64_t>(repeated.scale.size());
  for_each_period(view.size(), period, [&](int64_t begin, int64_t end, int64_t offset) {
    columns(begin, end, repeated.scale.data() + offset, repeated.zero_point.data() + offset);
  });
}

}  // namespace torchquant::ops
