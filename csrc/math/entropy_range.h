// The range that loses least information: TensorRT's calibration, on magnitudes in linear bins.
#pragma once

#include "range_histogram.h"

namespace torchquant {

static constexpr int32_t kLinearBins = 2048;

static inline double times_log(double x) { return x > 0 ? x * log(x) : 0; }

// Magnitudes in linear bins over [0, greatest], each stretch spread over those it covers. Zeros
// are left out: every grid has them exactly, they have nothing to say about its end.
struct LinearHistogram {
  double counts[kLinearBins];
  // Sums over the bins before each: of the counts, of count * log(count), of bins not empty.
  double mass[kLinearBins + 1];
  double entropy[kLinearBins + 1];
  int32_t occupied[kLinearBins + 1];
};

static inline void spread(LinearHistogram& linear, Stretch s, double greatest) {
  const double low = s.low / greatest * kLinearBins, high = s.high / greatest * kLinearBins;
  const int32_t last = kLinearBins - 1;
  int32_t bin = low < last ? static_cast<int32_t>(low) : last;
  if (high <= bin + 1 || bin == last) {
    linear.counts[bin] += s.count;
    return;
  }
  for (; bin < kLinearBins && bin < high; ++bin) {
    const double from = low > bin ? low : bin, to = high < bin + 1 ? high : bin + 1;
    linear.counts[bin] += s.count * (to - from) / (high - low);
  }
}

static inline void fill_linear(LinearHistogram& linear, const Stretches& magnitudes) {
  for (double& count : linear.counts) count = 0;
  for (int32_t i = 0; i < magnitudes.size; ++i) {
    const Stretch& s = magnitudes.data[i];
    if (s.low > 0) spread(linear, s, magnitudes.greatest);
  }
  linear.mass[0] = linear.entropy[0] = 0;
  linear.occupied[0] = 0;
  for (int32_t b = 0; b < kLinearBins; ++b) {
    const double count = linear.counts[b];
    linear.mass[b + 1] = linear.mass[b] + count;
    linear.entropy[b + 1] = linear.entropy[b] + times_log(count);
    linear.occupied[b + 1] = linear.occupied[b] + (count > 0);
  }
}

// KL(P || Q): P is the first `bins` bins, what is beyond added to the last of them; Q is the same
// without what is beyond, in `levels` groups, each group's mass spread over its bins that are not
// empty.
static inline double divergence(const LinearHistogram& linear, int32_t bins, int32_t levels) {
  const double inside = linear.mass[bins], all = linear.mass[kLinearBins], beyond = all - inside;
  const double last = linear.counts[bins - 1];
  if (inside == 0 || (beyond > 0 && last == 0)) return INFINITY;
  double cross = 0, log_of_last = 0;
  for (int32_t g = 0; g < levels; ++g) {
    const int32_t from = static_cast<int32_t>(static_cast<int64_t>(g) * bins / levels);
    const int32_t to = static_cast<int32_t>(static_cast<int64_t>(g + 1) * bins / levels);
    const double mass = linear.mass[to] - linear.mass[from];
    const int32_t occupied = linear.occupied[to] - linear.occupied[from];
    if (occupied == 0) continue;
    log_of_last = log(mass / occupied);
    cross += mass * log_of_last;
  }
  const double entropy = linear.entropy[bins - 1] + times_log(last + beyond);
  return (entropy - cross - beyond * log_of_last) / all - log(all) + log(inside);
}

// The magnitude at which to clip so that the histogram keeps most of its information, on a grid of
// `levels` magnitudes: NVIDIA's TensorRT calibration. Of equal ones the greatest.
static inline double entropy_threshold(const Stretches& magnitudes, int32_t levels) {
  LinearHistogram linear;
  fill_linear(linear, magnitudes);
  int32_t best = kLinearBins;
  double least = INFINITY;
  for (int32_t bins = kLinearBins; bins >= levels; --bins) {
    const double found = divergence(linear, bins, levels);
    if (found < least) least = found, best = bins;
  }
  return magnitudes.greatest * best / kLinearBins;
}

}  // namespace torchquant
