// Ranges of values, found by teams of threads: what each lane of a team sees, which values a team
// has, and what becomes of its range: qparams, a part of a longer channel's range, or the codes of
// these very values.
#pragma once

#include "elementwise.h"

namespace torchquant::kernels::cuda {
namespace {

TORCHQUANT_HOST_DEVICE inline QParams choose(const ChosenCodes& codes, Range range) {
  return codes.symmetric ? symmetric_qparams(range, codes.quant_min, codes.quant_max)
                         : affine_qparams(range, codes.quant_min, codes.quant_max);
}

struct SeeRange {
  Range range = kEmptyRange;

  template <class T>
  TORCHQUANT_HOST_DEVICE void operator()(T value) {
    const float x = to_float(value);
    range = merge({x, x, bits_of(x) & 0x7fffffff}, range);
  }
};

struct MergeRanges {
  TORCHQUANT_HOST_DEVICE Range operator()(const Range& a, const Range& b) const {
    return merge(a, b);
  }
};

// What teams of these values come to.
struct RangeTeams {
  using Value = Range;
  using Merge = MergeRanges;
  TORCHQUANT_HOST_DEVICE static Range nothing() { return kEmptyRange; }
};

// A team for each part of each channel: of its runs, or of its elements where it is one run.
template <class T>
struct PartsOfChannels : RangeTeams {
  const T* x;
  Channels channels;
  int64_t splits;

  TORCHQUANT_HOST_DEVICE int64_t teams() const { return splits * channels.count; }

  TORCHQUANT_HOST_DEVICE Range see(int64_t team, Share lane) const {
    const int64_t part = team / channels.count, channel = team - part * channels.count;
    SeeRange seen;
    if (channels.outer == 1) {
      see_elements(part, channel, lane, seen);
    } else {
      see_runs(part, channel, lane, seen);
    }
    return seen.range;
  }

 private:
  TORCHQUANT_HOST_DEVICE void see_elements(int64_t part, int64_t channel, Share lane,
                                           SeeRange& seen) const {
    const int64_t row = channel / channels.runs_of_row;
    const int64_t column = (channel - row * channels.runs_of_row) * channels.inner;
    const int64_t n = smaller(channels.inner, channels.row - column);
    const int64_t size = divide_up(n, splits);
    const int64_t begin = smaller(n, part * size), end = smaller(n, begin + size);
    for_each_value(x + row * channels.row + column + begin, end - begin, lane, seen);
  }

  TORCHQUANT_HOST_DEVICE void see_runs(int64_t part, int64_t channel, Share lane,
                                       SeeRange& seen) const {
    const int64_t size = divide_up(channels.outer, splits);
    const int64_t end = smaller(channels.outer, (part + 1) * size);
    const int64_t step = channels.count * channels.inner;
    const T* run = x + part * size * step + channel * channels.inner;
    if (lane.step == 1) return see_short_runs(run, end - part * size, step, seen);
    for (int64_t i = part * size; i < end; ++i, run += step) {
      for_each_value(run, channels.inner, lane, seen);
    }
  }

  // A thread's own: four of them at once, for loads to be under way.
  TORCHQUANT_HOST_DEVICE void see_short_runs(const T* run, int64_t count, int64_t step,
                                             SeeRange& seen) const {
    constexpr int kAtOnce = 4;
    for (int64_t i = 0; i < count; i += kAtOnce, run += kAtOnce * step) {
      const int64_t some = smaller(kAtOnce, count - i);
      for (int64_t j = 0; j < channels.inner; ++j) {
        T values[kAtOnce];
        TORCHQUANT_UNROLL
        for (int u = 0; u < kAtOnce; ++u) values[u] = run[(u < some ? u : 0) * step + j];
        TORCHQUANT_UNROLL
        for (int u = 0; u < kAtOnce; ++u) seen(values[u]);
      }
    }
  }
};

// A team for each channel, over the ranges of its parts.
struct RangesOfParts : RangeTeams {
  const Range* parts;
  int64_t count;
  int64_t splits;

  TORCHQUANT_HOST_DEVICE int64_t teams() const { return count; }

  TORCHQUANT_HOST_DEVICE Range see(int64_t channel, Share lane) const {
    Range range = kEmptyRange;
    for (int64_t i = lane.first; i < splits; i += lane.step) {
      range = merge(parts[i * count + channel], range);
    }
    return range;
  }
};

// A team for each group of each row.
template <class T>
struct Groups : RangeTeams {
  Rows<T> x;
  GroupedRows all;

  struct Place {
    int64_t row;
    int64_t column;
    int64_t size;
  };

  TORCHQUANT_HOST_DEVICE int64_t teams() const { return all.rows * all.groups_of_row; }

  TORCHQUANT_HOST_DEVICE Place place(int64_t team) const {
    const int64_t r = team / all.groups_of_row, column = (team - r * all.groups_of_row) * all.group;
    return {r, column, smaller(all.group, all.row - column)};
  }

  TORCHQUANT_HOST_DEVICE const T* values(Place at) const {
    return x.at(at.row * all.row + at.column);
  }

  TORCHQUANT_HOST_DEVICE Range see(int64_t team, Share lane) const {
    const Place at = place(team);
    SeeRange seen;
    for_each_value(values(at), at.size, lane, seen);
    return seen.range;
  }
};

struct KeepPart {
  Range* parts;

  TORCHQUANT_HOST_DEVICE void operator()(int64_t team, Share lane, const Range& range) const {
    if (lane.first == 0) parts[team] = range;
  }
};

struct KeepQParams {
  ChosenCodes codes;
  float* scale;
  int32_t* zero_point;

  TORCHQUANT_HOST_DEVICE void operator()(int64_t team, Share lane, const Range& range) const {
    if (lane.first == 0) keep(team, choose(codes, range));
  }

  TORCHQUANT_HOST_DEVICE void keep(int64_t team, QParams chosen) const {
    scale[team] = chosen.scale;
    zero_point[team] = chosen.zero_point;
  }
};

// The team reads its values once more, now from cache.
template <class T, class Code>
struct QuantizeGroup {
  Groups<T> groups;
  Code* q;
  int64_t q_stride;
  int32_t shift;
  KeepQParams qparams;

  TORCHQUANT_HOST_DEVICE void operator()(int64_t team, Share lane, const Range& range) const {
    const ChosenCodes& codes = qparams.codes;
    const QParams chosen = choose(codes, range);
    if (lane.first == 0) qparams.keep(team, chosen);
    const auto at = groups.place(team);
    const Channels only = {1, 1, 1, 1, 1};  // of the only channel no size is asked
    const auto quantize =
        elementwise(Quantize<T, Code>{codes.quant_min, codes.quant_max, shift},
                    Values<T>{{groups.values(at), at.size, at.size}}, OnlyParams{chosen}, only,
                    q + at.row * q_stride + at.column, at.size);
    do_share(quantize, lane);
  }
};

}  // namespace
}  // namespace torchquant::kernels::cuda
