// The range kernels over Simd.
#pragma once

#include "vectors.h"

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
    const Simd::F value = Simd::all(to_float(load<T>(x, i)));
    odd.add(Simd::first_of(Simd::load_first(x + i, n - i), n - i, value));
  }
  even.merge(odd);
  return even.fold();
}

inline Range range_span(const void* x, Float type, int64_t n) {
  Range range = kEmptyRange;
  with_type(type, [&](auto element) { range = range_of(at<decltype(element)>(x, 0), n); });
  return range;
}

inline void range_runs(const void* x, Float type, int64_t runs, int64_t n, Range* ranges) {
  with_type(type, [&](auto element) {
    for (int64_t r = 0; r < runs; ++r) {
      ranges[r] = merge(range_of(at<decltype(element)>(x, r * n), n), ranges[r]);
    }
  });
}

template <int Rows, class T>
inline void merge_rows(const T* x, int64_t stride, int64_t columns, float* min, float* max,
                       uint32_t* absmax_bits) {
  for_each_vector<Simd>(columns, [&](int64_t j, auto load, auto store) {
    RangeLanes lanes = {load(min + j), load(max + j), load(absmax_bits + j)};
#pragma GCC unroll 4
    for (int i = 0; i < Rows; ++i) lanes.add(load(x + i * stride + j));
    store(min + j, lanes.min);
    store(max + j, lanes.max);
    store(absmax_bits + j, lanes.absmax_bits);
  });
}

// Four rows at a time read and write what they are merged into once.
inline void range_columns(const void* x, Float type, int64_t rows, int64_t stride, int64_t columns,
                          float* min, float* max, uint32_t* absmax_bits) {
  with_type(type, [&](auto element) {
    using T = decltype(element);
    int64_t i = 0;
    for (; i + 4 <= rows; i += 4) {
      merge_rows<4>(at<T>(x, i * stride), stride, columns, min, max, absmax_bits);
    }
    for (; i < rows; ++i) {
      merge_rows<1>(at<T>(x, i * stride), stride, columns, min, max, absmax_bits);
    }
  });
}

}  // namespace
}  // namespace torchquant::kernels
