// The qparams of least squared error: the error that a histogram lets expect of a grid, and the
// search for the best one. docs/calibration.md derives both.
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

static inline double sum_of(SquaredError error) { return error.clipping + error.rounding; }

// Qparams, and the error to expect of them.
struct Candidate {
  QParams qparams;
  double error;
};

// What is searched: these values, for these codes.
struct MseProblem {
  const Stretches& values;
  int32_t quant_min;
  int32_t quant_max;

  SquaredError error_of(QParams qparams) const {
    return squared_error(values, qparams, quant_min, quant_max);
  }
  Candidate candidate(QParams qparams) const { return {qparams, sum_of(error_of(qparams))}; }
};

// Of equal ones the finer: values on a few points leave many grids without an error.
static inline void keep_better(Candidate& best, Candidate other) {
  const bool is_finer = other.qparams.scale < best.qparams.scale;
  if (other.error < best.error || (other.error == best.error && is_finer)) best = other;
}

// What clipping has to save, or the range stays whole: values on a lattice (the bytes of an image)
// may fit the whole range exactly, which bins do not show.
static constexpr double kWorthClipping = 1.01;

static inline Candidate unless_worth_clipping(Candidate whole, Candidate clipped) {
  return whole.error <= kWorthClipping * clipped.error ? whole : clipped;
}

static constexpr double kWideStep = 0.91700404320467121;    // 2^(-1/8)
static constexpr double kCoarseStep = 0.97857206208770009;  // 2^(-1/32)
static constexpr double kLeastShare = 0x1p-40;
static constexpr int32_t kFineSteps = 8;
static constexpr int32_t kFineRounds = 2;  // down to 2^-11 of the best

// Down from the whole range by factors of `step`, to where clipping alone costs more than the best
// so far: it only grows.
static inline Candidate shrink(const MseProblem& problem, QParams whole, double step) {
  Candidate best = problem.candidate(whole);
  for (double share = step; share > kLeastShare; share *= step) {
    const QParams tried = {round_scale(whole.scale * share), whole.zero_point};
    const SquaredError error = problem.error_of(tried);
    if (error.clipping > best.error) return best;
    keep_better(best, {tried, sum_of(error)});
  }
  return best;
}

// The best scale up to that of the whole range, for its zero point. The error is flat around its
// least, but rippled by the grid where many values lie close together: so first in coarse steps,
// then ever finer around the best.
static inline Candidate best_scale(const MseProblem& problem, QParams whole) {
  Candidate best = shrink(problem, whole, kCoarseStep);
  double step = 1 - kCoarseStep;
  for (int32_t round = 0; round < kFineRounds; ++round, step /= kFineSteps) {
    const double middle = best.qparams.scale;
    for (int32_t i = -kFineSteps; i <= kFineSteps; ++i) {
      const double scale = middle * (1 + step * i / kFineSteps);
      if (scale > whole.scale) continue;
      keep_better(best, problem.candidate({round_scale(scale), whole.zero_point}));
    }
  }
  return unless_worth_clipping(problem.candidate(whole), best);
}

static inline QParams symmetric_mse_qparams(const Stretches& values, int32_t quant_min,
                                            int32_t quant_max) {
  const Range range = range_between(values.least, values.greatest);
  const MseProblem problem = {values, quant_min, quant_max};
  return best_scale(problem, symmetric_qparams(range, quant_min, quant_max)).qparams;
}

// The least scale with which this zero point clips nothing, but what lies on a side of zero that
// has no codes at all.
static inline QParams whole_of(const MseProblem& problem, int64_t zero_point) {
  const double below = zero_point - static_cast<double>(problem.quant_min);
  const double above = static_cast<double>(problem.quant_max) - zero_point;
  const double low = below > 0 ? -problem.values.least / below : 0;
  const double high = above > 0 ? problem.values.greatest / above : 0;
  return {round_scale(low > high ? low : high), static_cast<int32_t>(zero_point)};
}

// The zero points [center - reach * spacing, center + reach * spacing] that are codes, by `search`.
template <class Search>
static inline Candidate best_zero_point(const MseProblem& problem, int64_t center, int64_t spacing,
                                        int64_t reach, Search search) {
  Candidate best = {{1, 0}, INFINITY};
  for (int64_t i = -reach; i <= reach; ++i) {
    const int64_t zero_point = center + i * spacing;
    if (zero_point < problem.quant_min || zero_point > problem.quant_max) continue;
    keep_better(best, search(whole_of(problem, zero_point)));
  }
  return best;
}

// First zero points all over the codes, then ever nearer to the best; its neighbours at last with
// all care. Values on one side of zero want the code at that end.
static inline Candidate best_grid(const MseProblem& problem) {
  const auto carefully = [&](QParams whole) { return best_scale(problem, whole); };
  const auto roughly = [&](QParams whole) { return shrink(problem, whole, kWideStep); };
  if (problem.values.least >= 0) return carefully(whole_of(problem, problem.quant_min));
  if (problem.values.greatest <= 0) return carefully(whole_of(problem, problem.quant_max));
  const int64_t codes = static_cast<int64_t>(problem.quant_max) - problem.quant_min;
  int64_t center = problem.quant_min + codes / 2, spacing = codes / 16 > 1 ? codes / 16 : 1;
  for (int64_t reach = 9; spacing >= 1; spacing /= 4, reach = 4) {
    center = best_zero_point(problem, center, spacing, reach, roughly).qparams.zero_point;
  }
  return best_zero_point(problem, center, 1, 2, carefully);
}

static inline QParams affine_mse_qparams(const Stretches& values, int32_t quant_min,
                                         int32_t quant_max) {
  const MseProblem problem = {values, quant_min, quant_max};
  const QParams exact =
      affine_qparams(range_between(values.least, values.greatest), quant_min, quant_max);
  return unless_worth_clipping(problem.candidate(exact), best_grid(problem)).qparams;
}

}  // namespace torchquant
