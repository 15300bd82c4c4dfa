// Minimum, maximum and largest magnitude, one value at a time: the definition of the others.
#include "element.h"

namespace torchquant::kernels {
namespace {

Range range_of(float x) { return {x, x, bits_of(x) & 0x7fffffff}; }

Range range_span(const void* x, Float type, int64_t n) {
  Range range = kEmptyRange;
  with_type(type, [&](auto element) {
    using T = decltype(element);
    for (int64_t i = 0; i < n; ++i) range = merge(range_of(to_float(load<T>(x, i))), range);
  });
  return range;
}

void range_runs(const void* x, Float type, int64_t runs, int64_t n, Range* ranges) {
  with_type(type, [&](auto element) {
    for (int64_t r = 0; r < runs; ++r) {
      ranges[r] = merge(range_span(at<decltype(element)>(x, r * n), type, n), ranges[r]);
    }
  });
}

void range_columns(const void* x, Float type, int64_t rows, int64_t stride, int64_t columns,
                   float* min, float* max, uint32_t* absmax_bits) {
  with_type(type, [&](auto element) {
    using T = decltype(element);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) {
        const Range value = range_of(to_float(load<T>(x, i * stride + j)));
        const Range range = merge(value, {min[j], max[j], absmax_bits[j]});
        min[j] = range.min;
        max[j] = range.max;
        absmax_bits[j] = range.absmax_bits;
      }
    }
  });
}

}  // namespace

const RangeKernels range_scalar = {range_span, range_runs, range_columns, choose_qparams};

}  // namespace torchquant::kernels
