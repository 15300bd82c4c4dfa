// The last elements of a span, fewer than a vector: copied through a buffer of a whole vector, so
// that the tail runs the body's instructions and touches no byte beyond the span.
#pragma once

#include "element.h"

namespace torchquant::kernels {
namespace {

template <class Simd, class T>
inline auto load_first(const T* from, int64_t count) {
  T whole[Simd::lanes] = {};
  memcpy(whole, from, static_cast<size_t>(count) * sizeof(T));
  return Simd::load(whole);
}

template <class Simd, class T, class Vector>
inline void store_first(T* to, Vector x, int64_t count) {
  T whole[Simd::lanes];
  Simd::store(whole, x);
  memcpy(to, whole, static_cast<size_t>(count) * sizeof(T));
}

// Calls body(begin, load, store) for each vector of [0, n), the loads and stores of the last one
// cut to what is left.
template <class Simd, class Body>
inline void for_each_vector(int64_t n, Body body) {
  int64_t i = 0;
  for (; i + Simd::lanes <= n; i += Simd::lanes) {
    body(
        i, [](auto* from) { return Simd::load(from); },
        [](auto* to, auto x) { Simd::store(to, x); });
  }
  if (i == n) return;
  const int64_t count = n - i;
  body(
      i, [count](auto* from) { return load_first<Simd>(from, count); },
      [count](auto* to, auto x) { store_first<Simd>(to, x, count); });
}

}  // namespace
}  // namespace torchquant::kernels
