// The range of least squared error: the error that a histogram lets expect of a grid, and the
// search for the ends of the best one. docs/calibration.md derives both.
#pragma once

#include "range_histogram.h"

namespace torchquant {

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

}  // namespace torchquant
