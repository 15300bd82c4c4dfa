// Which channel an element belongs to, whatever the granularity: elements in their order are rows
// of runs, each run of one channel (see ChannelView in ops/channels.h).
#pragma once

#include "memory.h"

namespace torchquant::kernels::cuda {
namespace {

// Of the element that it stands at: the channel, and how many of its run are left.
class ChannelWalk {
 public:
  TORCHQUANT_HOST_DEVICE ChannelWalk(const Channels& channels, int64_t index) {
    if (channels.count == 1) return;
    const int64_t row = channels.row.divide(index), column = index - row * channels.row;
    const int64_t run = channels.runs_of_row == 1 ? 0 : channels.inner.divide(column);
    const int64_t all = row * channels.runs_of_row + run;
    channel_ = all - channels.count.divide(all) * channels.count;
    row_left_ = channels.row - column;
    left_ = smaller(channels.inner - (column - run * channels.inner), row_left_);
  }

  TORCHQUANT_HOST_DEVICE int64_t channel() const { return channel_; }
  TORCHQUANT_HOST_DEVICE int64_t left() const { return left_; }

  // To the next element. Returns whether that is another run's.
  TORCHQUANT_HOST_DEVICE bool next(const Channels& channels) {
    --row_left_;
    if (--left_ > 0) return false;
    if (row_left_ == 0) row_left_ = channels.row;
    left_ = smaller(channels.inner, row_left_);
    channel_ = channel_ + 1 == channels.count ? 0 : channel_ + 1;
    return true;
  }

 private:
  int64_t channel_ = 0;
  int64_t left_ = INT64_MAX;
  int64_t row_left_ = INT64_MAX;
};

// Parameters of channels that follow each other.
template <int V>
struct SeveralParams {
  Vector<float, V> scale;
  Vector<int32_t, V> zero_point;

  TORCHQUANT_HOST_DEVICE QParams operator[](int i) const {
    return {scale.values[i], zero_point.values[i]};
  }
};

// The parameters of every channel, in memory.
struct ParamsOfChannels {
  const float* scale;
  const int32_t* zero_point;

  TORCHQUANT_HOST_DEVICE QParams operator[](int64_t channel) const {
    return {scale[channel], zero_point[channel]};
  }

  // Of V channels from this one on.
  template <int V>
  TORCHQUANT_HOST_DEVICE SeveralParams<V> several(int64_t channel) const {
    const float* scales = scale + channel;
    const int32_t* zero_points = zero_point + channel;
    if (is_aligned<float, V>(scales) && is_aligned<int32_t, V>(zero_points)) {
      return {load_vector<float, V>(scales), load_vector<int32_t, V>(zero_points)};
    }
    SeveralParams<V> each;
    TORCHQUANT_UNROLL
    for (int i = 0; i < V; ++i) {
      each.scale.values[i] = scales[i];
      each.zero_point.values[i] = zero_points[i];
    }
    return each;
  }
};

// Those of the only channel, at hand.
struct OnlyParams {
  QParams params;

  TORCHQUANT_HOST_DEVICE QParams operator[](int64_t) const { return params; }

  template <int V>
  TORCHQUANT_HOST_DEVICE SeveralParams<V> several(int64_t) const {
    return {};  // there are none
  }
};

}  // namespace
}  // namespace torchquant::kernels::cuda
