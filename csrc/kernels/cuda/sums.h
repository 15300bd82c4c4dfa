// Sums of float64 in the order that docs/numerics.md lays down, so that their bits are the CPU's:
// blocks of kSumBlock elements of a channel, kSumLanes lanes each; then the lanes of a block, then
// the blocks, in index order. A thread has a lane, a block, or a channel.
#pragma once

#include "elementwise.h"

namespace torchquant::kernels::cuda {
namespace {

// Where sums are kept: [..., channels], so that neighbouring threads have neighbouring channels.
struct SumGrid {
  int64_t channels;
  int64_t blocks;
  int64_t channel_size;

  TORCHQUANT_HOST_DEVICE int64_t lanes() const { return blocks * kSumLanes * channels; }
};

TORCHQUANT_HOST_DEVICE inline void add(double& sum, double term) { sum += term; }

TORCHQUANT_HOST_DEVICE inline void add(ErrorSums& sum, const ErrorSums& term) {
  sum.max_error = term.max_error > sum.max_error ? term.max_error : sum.max_error;
  sum.absolute += term.absolute;
  sum.squared += term.squared;
  sum.signal += term.signal;
}

// The terms of one lane of one block. Terms::load(channel, j) reads element j of the channel, and
// Terms::term(channel, j, loaded) is what it adds.
template <class Terms>
struct SumLanes {
  using Sum = typename Terms::Sum;
  Terms terms;
  SumGrid grid;
  bool lanes_first;  // whether neighbouring threads have neighbouring lanes, or channels
  Sum* lanes;

  TORCHQUANT_HOST_DEVICE int64_t items() const { return grid.lanes(); }

  TORCHQUANT_HOST_DEVICE void operator()(int64_t item) const {
    int64_t block, lane, channel;
    if (lanes_first) {
      lane = item % kSumLanes;
      block = item / kSumLanes % grid.blocks;
      channel = item / kSumLanes / grid.blocks;
    } else {
      channel = item % grid.channels;
      lane = item / grid.channels % kSumLanes;
      block = item / grid.channels / kSumLanes;
    }
    const int64_t begin = block * kSumBlock;
    const int64_t end = smaller(grid.channel_size, begin + kSumBlock);
    Sum sum = {};
    for (int64_t j = begin + lane; j < end; j += kAtOnce * kSumLanes)
      add_some(channel, j, end, sum);
    lanes[(block * kSumLanes + lane) * grid.channels + channel] = sum;
  }

 private:
  static constexpr int kAtOnce = 8;  // loads under way

  TORCHQUANT_HOST_DEVICE void add_some(int64_t channel, int64_t j, int64_t end, Sum& sum) const {
    typename Terms::Loaded loaded[kAtOnce];
    TORCHQUANT_UNROLL
    for (int u = 0; u < kAtOnce; ++u) {
      const int64_t at = j + u * kSumLanes;
      if (at < end) loaded[u] = terms.load(channel, at);
    }
    TORCHQUANT_UNROLL
    for (int u = 0; u < kAtOnce; ++u) {
      const int64_t at = j + u * kSumLanes;
      if (at < end) add(sum, terms.term(channel, at, loaded[u]));
    }
  }
};

template <class Sum>
struct SumBlocks {
  SumGrid grid;
  const Sum* lanes;
  Sum* blocks;

  TORCHQUANT_HOST_DEVICE int64_t items() const { return grid.blocks * grid.channels; }

  TORCHQUANT_HOST_DEVICE void operator()(int64_t item) const {
    const int64_t block = item / grid.channels, channel = item - block * grid.channels;
    Sum sum = {};
    for (int64_t lane = 0; lane < kSumLanes; ++lane) {
      add(sum, lanes[(block * kSumLanes + lane) * grid.channels + channel]);
    }
    blocks[item] = sum;
  }
};

// finish(channel, sum) with the sum of all blocks.
template <class Sum, class Finish>
struct SumChannel {
  SumGrid grid;
  const Sum* blocks;
  Finish finish;

  TORCHQUANT_HOST_DEVICE int64_t items() const { return grid.channels; }

  TORCHQUANT_HOST_DEVICE void operator()(int64_t channel) const {
    Sum sum = {};
    for (int64_t block = 0; block < grid.blocks; ++block) add(sum, get(channel, block));
    finish(channel, sum);
  }

  TORCHQUANT_HOST_DEVICE Sum get(int64_t channel, int64_t block) const {
    return blocks[block * grid.channels + channel];
  }
};

TORCHQUANT_HOST_DEVICE inline double to_double(double x) { return x; }
template <class T>
TORCHQUANT_HOST_DEVICE inline double to_double(T x) {
  return to_float(x);
}

template <class T, class U>
struct ErrorTerms {
  using Sum = ErrorSums;
  const T* original;
  const U* approximation;

  struct Loaded {
    T original;
    U approximation;
  };
  TORCHQUANT_HOST_DEVICE Loaded load(int64_t, int64_t j) const {
    return {original[j], approximation[j]};
  }

  TORCHQUANT_HOST_DEVICE ErrorSums term(int64_t, int64_t, const Loaded& loaded) const {
    const double value = to_double(loaded.original);
    const double error = value - to_double(loaded.approximation);
    return {fabs(error), fabs(error), error * error, value * value};
  }
};

struct FinishErrors {
  double count;
  double* errors;

  TORCHQUANT_HOST_DEVICE void operator()(int64_t, const ErrorSums& sum) const {
    const bool has_nan = sum.absolute != sum.absolute;  // a maximum loses it
    errors[0] = has_nan ? static_cast<double>(NAN) : sum.max_error;
    errors[1] = sum.absolute / count;
    errors[2] = sum.squared / count;
    errors[3] =
        errors[0] == 0 ? static_cast<double>(INFINITY) : 10 * log10(sum.signal / sum.squared);
  }
};

// The terms of the scale's gradient; on the way the gradient of the input is written.
template <class T>
struct SlopeTerms {
  using Sum = double;
  const T* output;
  const T* x;
  T* input;
  Channels channels;
  ParamsOfChannels params;
  int32_t quant_min;
  int32_t quant_max;

  using Loaded = GradientAt<T>;
  TORCHQUANT_HOST_DEVICE Loaded load(int64_t channel, int64_t j) const {
    const int64_t i = index(channel, j);
    return {output[i], x[i]};
  }

  TORCHQUANT_HOST_DEVICE double term(int64_t channel, int64_t j, const Loaded& at) const {
    const QParams p = params[channel];
    const float gradient = to_float(at.gradient);
    const FakeQuantizeSlope slope =
        fake_quantize_slope(to_float(at.x), 1.0f / p.scale, p.zero_point, quant_min, quant_max);
    input[index(channel, j)] = from_float<T>(slope.inside ? gradient : 0.0f);
    return static_cast<double>(gradient) * slope.slope;
  }

 private:
  // Of element j of the channel: its runs lie `count` runs apart.
  TORCHQUANT_HOST_DEVICE int64_t index(int64_t channel, int64_t j) const {
    if (channels.count == 1) return j;
    const int64_t run = channels.inner.divide(j);
    return (run * channels.count + channel) * channels.inner + (j - run * channels.inner);
  }
};

struct KeepGradient {
  float* scale;

  TORCHQUANT_HOST_DEVICE void operator()(int64_t channel, double sum) const {
    scale[channel] = static_cast<float>(sum);
  }
};

}  // namespace
}  // namespace torchquant::kernels::cuda
