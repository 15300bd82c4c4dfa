// The error kernels over Simd: the lanes of error_scalar.cpp, several to a vector.
#pragma once

#include "element.h"

namespace torchquant::kernels {
namespace {

constexpr int64_t kVectors = kSumLanes / Simd::double_lanes;

struct ErrorLanes {
  Simd::D largest[kVectors], absolute[kVectors], squared[kVectors], signal[kVectors];
};

// One value to each of the kSumLanes lanes.
template <class T, class U>
inline void add_values(ErrorLanes& lanes, const T* original, const U* approximation) {
#pragma GCC unroll 4
  for (int64_t v = 0; v < kVectors; ++v) {
    const Simd::D value = Simd::load_doubles(original + v * Simd::double_lanes);
    const Simd::D error =
        Simd::subtract(value, Simd::load_doubles(approximation + v * Simd::double_lanes));
    const Simd::D magnitude = Simd::magnitude(error);
    lanes.largest[v] = Simd::larger(magnitude, lanes.largest[v]);
    lanes.absolute[v] = Simd::add(lanes.absolute[v], magnitude);
    lanes.squared[v] = Simd::add(lanes.squared[v], Simd::multiply(error, error));
    lanes.signal[v] = Simd::add(lanes.signal[v], Simd::multiply(value, value));
  }
}

inline double sum_lanes(const Simd::D* vectors) {
  double lanes[kSumLanes], sum = 0;
  for (int64_t v = 0; v < kVectors; ++v) Simd::store(lanes + v * Simd::double_lanes, vectors[v]);
  for (int64_t i = 0; i < kSumLanes; ++i) sum += lanes[i];
  return sum;
}

inline double largest_lane(const Simd::D* vectors) {
  double lanes[kSumLanes], largest = 0;
  for (int64_t v = 0; v < kVectors; ++v) Simd::store(lanes + v * Simd::double_lanes, vectors[v]);
  for (int64_t i = 0; i < kSumLanes; ++i) largest = lanes[i] > largest ? lanes[i] : largest;
  return largest;
}

template <class T, class U>
inline ErrorSums error_block(const T* original, const U* approximation, int64_t n) {
  ErrorLanes lanes;
  for (int64_t v = 0; v < kVectors; ++v) {
    lanes.largest[v] = lanes.absolute[v] = lanes.squared[v] = lanes.signal[v] = Simd::zero();
  }
  const int64_t body = n - n % kSumLanes;
  for (int64_t i = 0; i < body; i += kSumLanes) {
    add_values(lanes, original + i, approximation + i);
  }
  if (body < n) {  // zeros fill up the lanes: they add nothing to sums that are never -0
    T value[kSumLanes] = {};
    U approximate[kSumLanes] = {};
    memcpy(value, original + body, static_cast<size_t>(n - body) * sizeof(T));
    memcpy(approximate, approximation + body, static_cast<size_t>(n - body) * sizeof(U));
    add_values(lanes, value, approximate);
  }
  ErrorSums sums = {largest_lane(lanes.largest), sum_lanes(lanes.absolute),
                    sum_lanes(lanes.squared), sum_lanes(lanes.signal)};
  if (sums.absolute != sums.absolute) sums.max_error = NAN;  // maxpd loses NaN, a sum keeps it
  return sums;
}

inline ErrorSums error_of_floats(const void* original, Float from, const void* approximation,
                                 Float to, int64_t n) {
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
}  // namespace torchquant::kernels
