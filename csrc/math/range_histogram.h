// A histogram whose bins are fixed, logarithmic in |x|: the bin of a float32 is its sign, its
// exponent and 6 bits of its mantissa. It depends on no data, so counts add exactly. What is read
// from it is derived in docs/calibration.md. C names only, as in affine.h.
#pragma once

#include "affine.h"

namespace torchquant {

static constexpr int32_t kBins = 32768;
static constexpr int32_t kBinShift = 17;             // of 32 bits, 15 are the bin
static constexpr int32_t kNegativeBins = kBins / 2;  // the first of them, that of -0
static constexpr int32_t kFiniteBins = 255 << 6;     // of either sign; Inf and NaN are beyond

TORCHQUANT_HOST_DEVICE static inline int32_t bin_of(float x) {
  return static_cast<int32_t>(bits_of(x) >> kBinShift);
}

// Positive bin b holds the values of [edge_of(b), edge_of(b + 1)): 64 bins an octave, the lowest
// octave's linear down to 0. Computed from integers: no thread's flushing of denormals matters.
static inline double edge_of(int32_t bin) {
  const int32_t exponent = bin >> 6, mantissa = bin & 63;
  return exponent == 0 ? ldexp(mantissa, -132) : ldexp(64 + mantissa, exponent - 133);
}

// `count` values spread evenly over [low, high]; where the two are equal, all are that value.
struct Stretch {
  double low;
  double high;
  double count;
};

// The stretches of a histogram in ascending order, one for each bin that is not empty. `least` and
// `greatest` are exact values, and the values of their bins count as these: so that an end which
// many values share (a mask, what a clamp left) is never cut off for a gain that is none.
struct Stretches {
  const Stretch* data;
  int32_t size;
  double count;
  double least;
  double greatest;
};

static constexpr int32_t kMostStretches = 2 * kFiniteBins;

static inline void append(Stretches& all, Stretch* data, double low, double high, int64_t count) {
  if (count == 0) return;
  data[all.size++] = {low, high, static_cast<double>(count)};
  all.count += static_cast<double>(count);
}

// Of at least one value. `data` has room for kMostStretches.
static inline Stretches values_of(const int64_t* counts, float min, float max, Stretch* data) {
  Stretches all = {data, 0, 0, min, max};
  for (int32_t b = kFiniteBins - 1; b >= 0; --b) {
    append(all, data, -edge_of(b + 1), -edge_of(b), counts[kNegativeBins + b]);
  }
  for (int32_t b = 0; b < kFiniteBins; ++b) {
    append(all, data, edge_of(b), edge_of(b + 1), counts[b]);
  }
  data[0].low = all.least;
  data[all.size - 1].high = all.greatest;
  if (all.size == 1) return all;
  data[0].high = all.least;
  data[all.size - 1].low = all.greatest;
  return all;
}

// Of |x|. The smallest magnitude is not known, but that it is none below its bin.
static inline Stretches magnitudes_of(const int64_t* counts, float min, float max, Stretch* data) {
  Stretches all = {data, 0, 0, 0, -min > max ? -min : max};
  for (int32_t b = 0; b < kFiniteBins; ++b) {
    append(all, data, edge_of(b), edge_of(b + 1), counts[b] + counts[kNegativeBins + b]);
  }
  data[all.size - 1].low = data[all.size - 1].high = all.greatest;
  return all;
}

// The value at `order`, from 0, of the sorted ones: within its bin.
static inline double ordered_value(const Stretches& all, double order) {
  for (int32_t i = 0; i < all.size; ++i) {
    const Stretch& s = all.data[i];
    if (order < s.count) return s.low + (s.high - s.low) * ((order + 0.5) / s.count);
    order -= s.count;
  }
  return all.greatest;
}

// What `share` of the values, in [0, 1], do not exceed: as torch.quantile defines it, linear
// between the two values around rank share * (count - 1).
static inline double quantile_of(const Stretches& all, double share) {
  if (share <= 0) return all.least;
  if (share >= 1) return all.greatest;
  const double rank = share * (all.count - 1), order = floor(rank);
  const double below = ordered_value(all, order), above = ordered_value(all, order + 1);
  return below + (above - below) * (rank - order);
}

static inline Range range_between(double low, double high) {
  const float min = static_cast<float>(low), max = static_cast<float>(high);
  const uint32_t below = bits_of(min) & 0x7fffffff, above = bits_of(max) & 0x7fffffff;
  return {min, max, below > above ? below : above};
}

}  // namespace torchquant
