// Scale and zero point from a histogram, on the host for every device: it is 256 KB, and searched.
#include <ATen/ops/scalar_tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "../math/entropy_range.h"
#include "../math/mse_range.h"
#include "kernel_types.h"
#include "outputs.h"
#include "parallel.h"

namespace torchquant::ops {
namespace {

struct Histogram {
  const int64_t* counts;
  float min;
  float max;
};

// Returns how many values were counted.
double check_counts(const int64_t* counts) {
  double all = 0, not_finite = 0;
  for (int32_t bin = 0; bin < kBins; ++bin) {
    TORCH_CHECK(counts[bin] >= 0, "counts must hold no negative number, but got ", counts[bin],
                " in bin ", bin, ": pass what histogram_observe_ filled");
    all += static_cast<double>(counts[bin]);
    if (bin % kNegativeBins >= kFiniteBins) not_finite += static_cast<double>(counts[bin]);
  }
  TORCH_CHECK(not_finite == 0, "counts must hold finite values only, but got ", not_finite,
              " of NaN or Inf: find out where the observed tensor took them from, or observe "
              "again without them");
  TORCH_CHECK(all < 0x1p62, "counts must add up to less than 2^62, but got ", all,
              ": merge fewer histograms");
  return all;
}

void check_range(const float* range) {
  TORCH_CHECK(-INFINITY < range[0] && range[0] <= range[1] && range[1] < INFINITY,
              "range must hold the minimum and maximum of what was counted, but got ", range[0],
              " and ", range[1], ": pass the one that histogram_observe_ filled with counts");
}

// How many magnitudes the grid has on the side of the values that has more.
int32_t levels_of(const Histogram& seen, const kernels::ChosenCodes& codes) {
  if (codes.symmetric) return codes.quant_max + 1;
  const int32_t all = codes.quant_max - codes.quant_min + 1;
  return seen.min < 0 && seen.max > 0 ? (all + 1) / 2 : all;
}

Range percentile_range(const Histogram& seen, double percentile, bool symmetric, Stretch* room) {
  if (symmetric) {
    const auto all = magnitudes_of(seen.counts, seen.min, seen.max, room);
    const double end = quantile_of(all, percentile / 100);
    return range_between(-end, end);
  }
  const auto all = values_of(seen.counts, seen.min, seen.max, room);
  const double outside = (100 - percentile) / 200;
  return range_between(quantile_of(all, outside), quantile_of(all, 1 - outside));
}

QParams mse_qparams(const Histogram& seen, const kernels::ChosenCodes& codes, Stretch* room) {
  const auto all = values_of(seen.counts, seen.min, seen.max, room);
  const auto least_error = codes.symmetric ? symmetric_mse_qparams : affine_mse_qparams;
  return least_error(all, codes.quant_min, codes.quant_max);
}

Range entropy_range(const Histogram& seen, const kernels::ChosenCodes& codes, Stretch* room) {
  const auto all = magnitudes_of(seen.counts, seen.min, seen.max, room);
  const double end = entropy_threshold(all, levels_of(seen, codes));
  return range_between(std::clamp<double>(seen.min, -end, 0), std::clamp<double>(seen.max, 0, end));
}

QParams qparams_of(Range range, const kernels::ChosenCodes& codes) {
  const auto choose = codes.symmetric ? symmetric_qparams : affine_qparams;
  return choose(range, codes.quant_min, codes.quant_max);
}

QParams qparams_of(const Histogram& seen, const kernels::ChosenCodes& codes,
                   std::string_view method, double percentile) {
  const Range exact = range_between(seen.min, seen.max);
  if (method == "minmax" || exact.absmax_bits == 0) return qparams_of(exact, codes);
  std::vector<Stretch> room(kMostStretches);
  if (method == "mse") return mse_qparams(seen, codes, room.data());
  if (method == "entropy") return qparams_of(entropy_range(seen, codes, room.data()), codes);
  return qparams_of(percentile_range(seen, percentile, codes.symmetric, room.data()), codes);
}

std::tuple<Tensor, Tensor> histogram_qparams(const Tensor& counts, const Tensor& range,
                                             int64_t quant_min, int64_t quant_max, bool symmetric,
                                             std::string_view method, double percentile) {
  check_histogram_qparams(counts, range, quant_min, quant_max, symmetric, method, percentile);
  const DefaultFloats floats;
  const Tensor on_host = counts.cpu().contiguous(), range_on_host = range.cpu().contiguous();
  const auto* seen = on_host.const_data_ptr<int64_t>();
  const auto* ends = range_on_host.const_data_ptr<float>();
  const auto codes = chosen_codes(quant_min, quant_max, symmetric);
  QParams qparams = qparams_of(kEmptyRange, codes);
  if (check_counts(seen) > 0) {
    check_range(ends);
    qparams = qparams_of({seen, ends[0], ends[1]}, codes, method, percentile);
  }
  return {at::scalar_tensor(qparams.scale, counts.options().dtype(at::kFloat)),
          at::scalar_tensor(qparams.zero_point, counts.options().dtype(at::kInt))};
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CompositeExplicitAutograd, m) {
  m.impl("histogram_qparams", &histogram_qparams);
}

}  // namespace torchquant::ops
