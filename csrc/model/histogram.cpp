// The calibration state of torchquant.h.
#include <ATen/ATen.h>

#include <limits>

#include "torchquant.h"

namespace torchquant {
namespace {

constexpr int64_t kBins = 32'768;

}  // namespace

Histogram::Histogram() : counts(at::zeros({kBins}, at::kLong)), range(at::empty({2}, at::kFloat)) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  range[0].fill_(kInf);
  range[1].fill_(-kInf);
}

// Of tensors alone a copy would be the same memory, and what one observes would be in both.
Histogram::Histogram(const Histogram& other)
    : counts(other.counts.clone()), range(other.range.clone()) {}

Histogram& Histogram::operator=(const Histogram& other) {
  if (this != &other) *this = Histogram(other);
  return *this;
}

void Histogram::observe(const at::Tensor& input) { histogram_observe_(counts, range, input); }

void Histogram::merge(const Histogram& other) {
  const at::Tensor low = at::minimum(range[0], other.range[0]);
  const at::Tensor high = at::maximum(range[1], other.range[1]);
  counts.add_(other.counts);
  range.copy_(at::stack({low, high}));
}

std::tuple<at::Tensor, at::Tensor> Histogram::qparams(int64_t quant_min, int64_t quant_max,
                                                      bool symmetric, std::string_view method,
                                                      double percentile) const {
  return histogram_qparams(counts, range, quant_min, quant_max, symmetric, method, percentile);
}

}  // namespace torchquant
