// The range kernels over Simd.
#pragma once

#include "tail.h"

namespace torchquant::kernels {
namespace {

struct RangeLanes {
  Simd::F min = Simd::all(INFINITY);
  Simd::F max = Simd::all(-INFINITY);
  Simd::I absmax_bits = Simd::all(0);

  // NaN may leave min and max as they are: the magnitude bits keep it.
  void add(Simd::F x) {
    min = Simd::at_most(x, min);
    max = Simd::at_least(x, max);
    absmax_bits = Simd::larger_unsigned(Simd::magnitude_bits(x), absmax_bits);
  }

  void merge(const RangeLanes& other) {
    min = Simd::at_most(other.min, min);
    max = Simd::at_least(other.max, max);
    absmax_bits = Simd::larger_unsigned(other.absmax_bits, absmax_bits);
  }

  Range fold() const {
    return {Simd::least(min), Simd::greatest(max), Simd::greatest_unsigned(absmax_bits)};
  }
};

// Each maximum waits for the one before it, so two of them run side by side.
template <class T>
inline Range range_of(const T* x, int64_t n) {
  RangeLanes even, odd;
  int64_t i = 0;
  for (; i + 2 * Simd::lanes <= n; i += 2 * Simd::lanes) {
    even.add(Simd::load(x + i));
    odd.add(Simd::load(x + i + Simd::lanes));
  }
  if (i + Simd::lanes <= n) {
    even.add(Simd::load(x + i));
    i += Simd::lanes;
  }
  if (i < n) {  // the rest, filled up with its first value, which widens no range
    T rest[Simd::lanes];
    for (T& value : rest) memcpy(&value, x + i, sizeof(T));
    memcpy(rest, x + i, static_cast<size_t>(n - i) * sizeof(T));
    odd.add(Simd::load(rest));
  }
  even.merge(odd);
  return even.fold();
}

inline Range range_span(const void* x, Float type, int64_t n) {
  Range range = kEmptyRange;
  with_type(type, [&](auto element) { range = range_of(at<decltype(element)>(x, 0), n); });
  return range;
}

template <class T>
inline void merge_row(const T* x, int64_t columns, float* min, float* max, uint32_t* absmax_bits) {
  for_each_vector<Simd>(columns, [&](int64_t j, auto load, auto store) {
    RangeLanes lanes = {load(min + j), load(max + j), load(absmax_bits + j)};
    lanes.add(load(x + j));
    store(min + j, lanes.min);
    store(max + j, lanes.max);
    store(absmax_bits + j, lanes.absmax_bits);
  });
}

inline void range_columns(const void* x, Float type, int64_t rows, int64_t columns, float* min,
                          float* max, uint32_t* absmax_bits) {
  with_type(type, [&](auto element) {
    for (int64_t i = 0; i < rows; ++i) {
      merge_row(at<decltype(element)>(x, i * columns), columns, min, max, absmax_bits);
    }
  });
}

}  // namespace
}  // namespace torchquant::kernels
