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
// `greatest` are exact values: they trim the outermost stretches and are stretches of their own.
struct Stretches {
  const Stretch* data;
  int32_t size;
  double count;
  double least;
  double greatest;
};

static constexpr int32_t kMostStretches = 2 * kFiniteBins + 2;

static inline void append(Stretches& all, Stretch* data, double low, double high, int64_t count) {
  if (count == 0) return;
  low = low < all.least ? all.least : low;
  high = high > all.greatest ? all.greatest : high;
  data[all.size++] = {low, high > low ? high : low, static_cast<double>(count)};
  all.count += static_cast<double>(count);
}

static inline void set_greatest_apart(Stretches& all, Stretch* data) {
  if (data[all.size - 1].count < 1) return;  // the one value there is already stands apart
  data[all.size - 1].count -= 1;
  data[all.size++] = {all.greatest, all.greatest, 1};
}

// Of at least one value. `data` has room for kMostStretches.
static inline Stretches values_of(const int64_t* counts, float min, float max, Stretch* data) {
  Stretches all = {data, 1, 0, min, max};
  data[0] = {min, min, 1};
  for (int32_t b = kFiniteBins - 1; b >= 0; --b) {
    append(all, data, -edge_of(b + 1), -edge_of(b), counts[kNegativeBins + b]);
  }
  for (int32_t b = 0; b < kFiniteBins; ++b) {
    append(all, data, edge_of(b), edge_of(b + 1), counts[b]);
  }
  data[1].count -= 1;
  set_greatest_apart(all, data);
  return all;
}

// Of |x|. The smallest magnitude is not known, but that it is none below its bin.
static inline Stretches magnitudes_of(const int64_t* counts, float min, float max, Stretch* data) {
  Stretches all = {data, 0, 0, 0, -min > max ? -min : max};
  for (int32_t b = 0; b < kFiniteBins; ++b) {
    append(all, data, edge_of(b), edge_of(b + 1), counts[b] + counts[kNegativeBins + b]);
  }
  set_greatest_apart(all, data);
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
  const double rank = share * (all.count - 1), order = floor(rank);
  const double below = ordered_value(all, order), above = ordered_value(all, order + 1);
  return below + (above - below) * (rank - order);
}

// The squared error of quantized values, summed: what the ends of the grid cut off, and the rest.
struct SquaredError {
  double clipping;
  double rounding;
};

// To nearest, for |u| < 2^51: adding 1.5 * 2^52 leaves no bits for a fraction.
static inline double round_step(double u) { return (u + 0x1.8p52) - 0x1.8p52; }

// The integral over [0, u] of the squared distance to the next integer: 1/12 for each of them.
static inline double rounding_integral(double u) {
  const double k = round_step(u), rest = u - k;
  return k / 12 + rest * rest * rest / 3;
}

// The mean squared distance to the grid of multiples of `scale`, over [low, high]. Where this is
// too narrow for a difference of integrals, the distance of its middle stands for all.
static inline double mean_rounding(double low, double high, double scale) {
  const double from = low / scale, to = high / scale, width = to - from;
  if (width < 1e-3) {
    const double middle = (from + to) / 2, rest = middle - round_step(middle);
    return (rest * rest + width * width / 12) * scale * scale;
  }
  return (rounding_integral(to) - rounding_integral(from)) / width * scale * scale;
}

// The mean squared distance to `end`, over [low, high].
static inline double mean_clipping(double low, double high, double end) {
  const double a = low - end, b = high - end;
  return (a * a + a * b + b * b) / 3;
}

// Of a stretch that an end of the grid cuts in two.
static inline SquaredError cut_error(const Stretch& s, double first, double last, double scale) {
  const double low = s.low < first ? first : s.low, high = s.high > last ? last : s.high;
  const double density = s.count / (s.high - s.low);
  SquaredError error = {0, density * (high - low) * mean_rounding(low, high, scale)};
  if (s.low < first) error.clipping += (first - s.low) * mean_clipping(s.low, first, first);
  if (s.high > last) error.clipping += (s.high - last) * mean_clipping(last, s.high, last);
  error.clipping *= density;
  return error;
}

static inline SquaredError squared_error(const Stretches& all, QParams qparams, int32_t quant_min,
                                         int32_t quant_max) {
  const double scale = qparams.scale;
  const double first = scale * (static_cast<double>(quant_min) - qparams.zero_point);
  const double last = scale * (static_cast<double>(quant_max) - qparams.zero_point);
  SquaredError sum = {0, 0};
  for (int32_t i = 0; i < all.size; ++i) {
    const Stretch& s = all.data[i];
    if (s.high <= first) {
      sum.clipping += s.count * mean_clipping(s.low, s.high, first);
    } else if (s.low >= last) {
      sum.clipping += s.count * mean_clipping(s.low, s.high, last);
    } else if (s.low >= first && s.high <= last) {
      sum.rounding += s.count * mean_rounding(s.low, s.high, scale);
    } else {
      const SquaredError part = cut_error(s, first, last, scale);
      sum.clipping += part.clipping;
      sum.rounding += part.rounding;
    }
  }
  return sum;
}

static inline Range range_between(double low, double high) {
  const float min = static_cast<float>(low), max = static_cast<float>(high);
  const uint32_t below = bits_of(min) & 0x7fffffff, above = bits_of(max) & 0x7fffffff;
  return {min, max, below > above ? below : above};
}

// A search for the share of an end, in (0, 1], whose error is least. The error is flat around its
// least, but rippled by the grid where many values lie close together: so first every 2^(-1/32),
// down to where clipping alone costs more than the best so far (it only grows), then ever finer
// around the best.
struct Search {
  double share;
  double error;
};

static constexpr double kCoarseStep = 0.97857206208770009;  // 2^(-1/32)
static constexpr int32_t kCoarseSteps = 1280;               // 40 octaves
static constexpr int32_t kFineSteps = 8;

static inline double sum_of(SquaredError error) { return error.clipping + error.rounding; }

static inline void keep_better(Search& best, double share, SquaredError error) {
  if (sum_of(error) < best.error) best = {share, sum_of(error)};
}

template <class Error>
static inline void search_coarsely(Search& best, Error error_of) {
  double share = 1;
  for (int32_t i = 0; i < kCoarseSteps; ++i) {
    const SquaredError error = error_of(share);
    if (error.clipping > best.error) return;
    keep_better(best, share, error);
    share *= kCoarseStep;
  }
}

// Within `step` of the best share so far, relative to it.
template <class Error>
static inline void search_finely(Search& best, double step, Error error_of) {
  const double middle = best.share;
  for (int32_t i = -kFineSteps; i <= kFineSteps; ++i) {
    const double share = middle * (1 + step * i / kFineSteps);
    if (share <= 1) keep_better(best, share, error_of(share));
  }
}

static constexpr int32_t kFineRounds = 2;  // down to 2^-11 of the best

// What clipping has to save, or the range stays whole: values on a lattice (the bytes of an image)
// may fit the whole range exactly, which bins do not show.
static constexpr double kWorthClipping = 1.01;

template <class Error>
static inline void search_ever_finer(Search& best, Error error_of) {
  double step = 1 - kCoarseStep;
  for (int32_t i = 0; i < kFineRounds; ++i, step /= kFineSteps) {
    search_finely(best, step, error_of);
  }
}

template <class Error>
static inline Search best_share(Error error_of) {
  Search best = {1, INFINITY};
  search_coarsely(best, error_of);
  search_ever_finer(best, error_of);
  const double whole = sum_of(error_of(1));
  return whole <= kWorthClipping * best.error ? Search{1, whole} : best;
}

static inline Range symmetric_mse_range(const Stretches& all, int32_t quant_min,
                                        int32_t quant_max) {
  const double absmax = -all.least > all.greatest ? -all.least : all.greatest;
  const auto error_of = [&](double share) {
    const Range range = range_between(-absmax * share, absmax * share);
    return squared_error(all, symmetric_qparams(range, quant_min, quant_max), quant_min, quant_max);
  };
  const double share = best_share(error_of).share;
  return range_between(-absmax * share, absmax * share);
}

struct Ends {
  double low;
  double high;
};

// Both ends: shrunk together, then, where there are two, one after the other in turn. The error is
// nearly convex in them: clipping is in each, and so is the square of the step.
template <class Error>
static inline Ends best_ends(Ends whole, Error error_of) {
  Search low = best_share([&](double s) { return error_of({whole.low * s, whole.high * s}); });
  Search high = low;
  const auto ends = [&] { return Ends{whole.low * low.share, whole.high * high.share}; };
  if (whole.low == 0 || whole.high == 0) return ends();
  const auto in_turn = [&](auto search) {
    search(low, [&](double s) { return error_of({whole.low * s, ends().high}); });
    high.error = low.error;
    search(high, [&](double s) { return error_of({ends().low, whole.high * s}); });
    low.error = high.error;
  };
  for (int32_t i = 0; i < 2; ++i) {
    in_turn([](Search& best, auto error) { search_coarsely(best, error); });
  }
  in_turn([](Search& best, auto error) { search_ever_finer(best, error); });
  return ends();
}

// The same range a step to either side, so that its zero point is the next one: with few codes the
// error is not convex in that.
template <class Error>
static inline Ends best_neighbour(Ends found, double step, Error error_of) {
  Ends best = found;
  double least = sum_of(error_of(found));
  for (int32_t side = -1; side <= 1; side += 2) {
    const Ends moved = {found.low + side * step, found.high + side * step};
    Search search = {1, INFINITY};
    search_ever_finer(search, [&](double s) { return error_of({moved.low * s, moved.high * s}); });
    if (search.error >= least) continue;
    least = search.error;
    best = {moved.low * search.share, moved.high * search.share};
  }
  return best;
}

static inline Range affine_mse_range(const Stretches& all, int32_t quant_min, int32_t quant_max) {
  const Ends whole = {all.least < 0 ? all.least : 0, all.greatest > 0 ? all.greatest : 0};
  const auto error_of = [&](Ends ends) {
    const Range range = range_between(ends.low, ends.high);
    return squared_error(all, affine_qparams(range, quant_min, quant_max), quant_min, quant_max);
  };
  const Ends found = best_ends(whole, error_of);
  const double step = (found.high - found.low) / (static_cast<double>(quant_max) - quant_min);
  const Ends best = best_neighbour(found, step, error_of);
  const bool is_worth_it = sum_of(error_of(whole)) > kWorthClipping * sum_of(error_of(best));
  const Ends chosen = is_worth_it ? best : whole;
  return range_between(chosen.low, chosen.high);
}

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
