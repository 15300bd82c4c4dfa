// The histogram kernels over Simd: counters are bumped one by one, what else is seen of the values
// costs a few vector instructions beside them.
#pragma once

#include "histogram_tables.h"
#include "range_simd.h"

namespace torchquant::kernels {
namespace {

// The range of values that may be infinite, and their least magnitude.
struct ObservedLanes {
  RangeLanes range;
  Simd::I below_least = Simd::all(-1);  // as unsigned: the least magnitude - 1, so that 0 is last

  void add(Simd::F x) {
    range.add(x);
    const Simd::I below = Simd::subtract(Simd::magnitude_bits(x), Simd::all(1));
    below_least = Simd::smaller_unsigned(below, below_least);
  }

  Observed fold() const {
    const Range found = range.fold();
    const uint32_t below = Simd::least_unsigned(below_least);
    return {below == UINT32_MAX ? below : below + 1, found.absmax_bits, found.min, found.max};
  }
};

inline void merge(const Observed& from, Observed& seen) {
  if (from.least < seen.least) seen.least = from.least;
  if (from.greatest > seen.greatest) seen.greatest = from.greatest;
  if (from.min < seen.min) seen.min = from.min;
  if (from.max > seen.max) seen.max = from.max;
}

// float32 is read again, which costs less than to take a vector apart.
inline const float* in_memory(const float* x, Simd::F, float*) { return x; }

template <class T>
inline const float* in_memory(const T*, Simd::F vector, float* buffer) {
  Simd::store(buffer, vector);
  return buffer;
}

template <class T>
inline void count_vector(const T* x, Simd::F vector, uint32_t* tables) {
  float buffer[Simd::lanes];
  const float* values = in_memory(x, vector, buffer);
#pragma GCC unroll 16
  for (int64_t i = 0; i < Simd::lanes; ++i) count(load<float>(values, i), i, tables);
}

template <class T>
inline Observed observe_vectors(const T* x, int64_t vectors, uint32_t* tables) {
  ObservedLanes lanes;
  for (int64_t v = 0; v < vectors; ++v) {
    const T* from = x + v * Simd::lanes;
    const Simd::F vector = Simd::load(from);
    lanes.add(vector);
    count_vector(from, vector, tables);
  }
  return lanes.fold();
}

template <class T>
inline void see_each(const T* x, int64_t n, Observed& seen) {
  for (int64_t i = 0; i < n; ++i) see(to_float(load<T>(x, i)), seen);
}

// In blocks, so that those with an infinity, which is no minimum, can be looked at once more.
template <class T>
inline void observe_all(const T* x, int64_t n, uint32_t* tables, Observed& seen) {
  constexpr int64_t kBlock = 4096;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t size = n - begin < kBlock ? n - begin : kBlock;
    const int64_t vectors = size / Simd::lanes, rest = vectors * Simd::lanes;
    const T* block = at<T>(x, begin);
    const Observed found = observe_vectors(block, vectors, tables);
    if (found.greatest < kInfinityBits) {
      merge(found, seen);
    } else {
      see_each(block, rest, seen);
    }
    for (int64_t i = rest; i < size; ++i) count(to_float(load<T>(block, i)), i, tables);
    see_each(at<T>(block, rest), size - rest, seen);
  }
}

inline void observe(const void* x, Float type, int64_t n, uint32_t* tables, Observed& seen) {
  with_type(type, [&](auto element) { observe_all(at<decltype(element)>(x, 0), n, tables, seen); });
}

}  // namespace
}  // namespace torchquant::kernels
