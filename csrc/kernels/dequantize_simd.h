// The dequantize kernels over Simd: affine.h's dequantize_value for ordinary zero points.
#pragma once

#include "vectors.h"

namespace torchquant::kernels {
namespace {

// int32 codes may lie further from the zero point than int32 reaches; narrower ones may not.
inline Simd::F difference(int32_t, Simd::I q, Simd::I zero_point) {
  return Simd::wide_difference(q, zero_point);
}
template <class Narrow>
inline Simd::F difference(Narrow, Simd::I q, Simd::I zero_point) {
  return Simd::to_float(Simd::subtract(q, zero_point));
}

template <class From, class To>
inline void dequantize_run(const From* q, To* x, int64_t n, float scale, int32_t zero_point) {
  const Simd::F scales = Simd::all(scale);
  const Simd::I zeros = Simd::all(zero_point);
  write_vectors<Simd>(x, n, [&](int64_t i, auto load) {
    return Simd::multiply(difference(From(), load(q + i), zeros), scales);
  });
}

inline void dequantize_runs(const void* q, Int from, void* x, Float to, int64_t runs, int64_t n,
                            const float* scale, const int32_t* zero_point) {
  with_type(from, [&](auto source) {
    with_type(to, [&](auto target) {
      for (int64_t r = 0; r < runs; ++r) {
        dequantize_run(at<decltype(source)>(q, r * n), at<decltype(target)>(x, r * n), n,
                       load<float>(scale, r), load<int32_t>(zero_point, r));
      }
    });
  });
}

inline void dequantize_columns(const void* q, Int from, void* x, Float to, int64_t n,
                               const float* scale, const int32_t* zero_point) {
  with_type(from, [&](auto source) {
    with_type(to, [&](auto target) {
      const auto* codes = at<decltype(source)>(q, 0);
      write_vectors<Simd>(at<decltype(target)>(x, 0), n, [&](int64_t i, auto load) {
        const Simd::F steps = difference(source, load(codes + i), load(zero_point + i));
        return Simd::multiply(steps, load(scale + i));
      });
    });
  });
}

}  // namespace
}  // namespace torchquant::kernels
