// Sums of the quantization error over one block, lane by lane: the definition of the others.
#include "element.h"

namespace torchquant::kernels {
namespace {

template <class T>
ErrorSums error_block(const T* original, const T* approximation, int64_t n) {
  double largest = 0;
  double absolute[kErrorLanes] = {};
  double squared[kErrorLanes] = {};
  double signal[kErrorLanes] = {};
  for (int64_t i = 0; i < n; ++i) {
    const double value = load<T>(original, i);
    const double error = value - load<T>(approximation, i);
    const int64_t lane = i % kErrorLanes;
    largest = fabs(error) > largest ? fabs(error) : largest;
    absolute[lane] += fabs(error);
    squared[lane] += error * error;
    signal[lane] += value * value;
  }
  ErrorSums sums = {largest, 0, 0, 0};
  for (int64_t lane = 0; lane < kErrorLanes; ++lane) {
    sums.absolute += absolute[lane];
    sums.squared += squared[lane];
    sums.signal += signal[lane];
  }
  if (sums.absolute != sums.absolute)
    sums.max_error = NAN;  // a comparison loses NaN, a sum keeps it
  return sums;
}

}  // namespace

const ErrorKernels error_scalar = {error_block<float>, error_block<double>};

}  // namespace torchquant::kernels
