// Sums of the quantization error over one block, lane by lane: the definition of the others.
#include "element.h"

namespace torchquant::kernels {
namespace {

double to_double(double x) { return x; }
template <class T>
double to_double(T x) {
  return to_float(x);
}

template <class T, class U>
ErrorSums error_block(const T* original, const U* approximation, int64_t n) {
  double largest = 0;
  double absolute[kSumLanes] = {};
  double squared[kSumLanes] = {};
  double signal[kSumLanes] = {};
  for (int64_t i = 0; i < n; ++i) {
    const double value = to_double(load<T>(original, i));
    const double error = value - to_double(load<U>(approximation, i));
    const int64_t lane = i % kSumLanes;
    largest = fabs(error) > largest ? fabs(error) : largest;
    absolute[lane] += fabs(error);
    squared[lane] += error * error;
    signal[lane] += value * value;
  }
  ErrorSums sums = {largest, 0, 0, 0};
  for (int64_t lane = 0; lane < kSumLanes; ++lane) {
    sums.absolute += absolute[lane];
    sums.squared += squared[lane];
    sums.signal += signal[lane];
  }
  if (sums.absolute != sums.absolute)
    sums.max_error = NAN;  // a comparison loses NaN, a sum keeps it
  return sums;
}

ErrorSums error_of_floats(const void* original, Float from, const void* approximation, Float to,
                          int64_t n) {
  ErrorSums sums = {};
  with_type(from, [&](auto source) {
    with_type(to, [&](auto target) {
      sums =
          error_block(at<decltype(source)>(original, 0), at<decltype(target)>(approximation, 0), n);
    });
  });
  return sums;
}

}  // namespace

const ErrorKernels error_scalar = {error_of_floats, error_block<double, double>};

}  // namespace torchquant::kernels
