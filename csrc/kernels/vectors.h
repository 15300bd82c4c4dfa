// Covers a span with vectors: whole ones, then one cut to what is left, which runs the body's
// instructions and touches no byte beyond the span.
#pragma once

#include "element.h"

namespace torchquant::kernels {
namespace {

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
      i, [count](auto* from) { return Simd::load_first(from, count); },
      [count](auto* to, auto x) { Simd::store_first(to, x, count); });
}

// Writes value(begin, load) for each vector of [0, n), four at a time where there are as many:
// narrow types then fill a whole vector.
template <class Simd, class T, class Value>
inline void write_vectors(T* to, int64_t n, Value value) {
  constexpr int64_t kStep = Simd::lanes;
  const auto whole = [](auto* from) { return Simd::load(from); };
  int64_t i = 0;
  for (; i + 4 * kStep <= n; i += 4 * kStep) {
    Simd::store(to + i, value(i, whole), value(i + kStep, whole), value(i + 2 * kStep, whole),
                value(i + 3 * kStep, whole));
  }
  for (; i + kStep <= n; i += kStep) Simd::store(to + i, value(i, whole));
  if (i == n) return;
  const int64_t count = n - i;
  const auto first = [count](auto* from) { return Simd::load_first(from, count); };
  Simd::store_first(to + i, value(i, first), count);
}

}  // namespace
}  // namespace torchquant::kernels
