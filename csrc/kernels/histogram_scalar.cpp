// Counting values into their bins, one at a time: the definition of the others.
#include "histogram_tables.h"

namespace torchquant::kernels {
namespace {

void observe(const void* x, Float type, int64_t n, uint32_t* tables, Observed& seen) {
  with_type(type, [&](auto element) {
    for (int64_t i = 0; i < n; ++i) {
      const float value = to_float(load<decltype(element)>(x, i));
      count(value, i, tables);
      see(value, seen);
    }
  });
}

}  // namespace

const HistogramKernels histogram_scalar = {observe, flush};

}  // namespace torchquant::kernels
