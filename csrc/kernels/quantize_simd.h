// The quantize kernels over Simd: affine.h's quantize_value for ordinary zero points, where its
// last clamp changes nothing.
#pragma once

#include "tail.h"

namespace torchquant::kernels {
namespace {

inline Simd::I quantize_vector(Simd::F x, Simd::F inv_scale, Simd::F low, Simd::F high,
                               Simd::I zero_point) {
  const Simd::F v = Simd::at_most(Simd::at_least(Simd::multiply(x, inv_scale), low), high);
  return Simd::add(Simd::round_to_int(v), zero_point);
}

inline void quantize_span(const void* x, Float from, void* q, Int to, int64_t n,
                          QuantizeParams params) {
  const Simd::F inv_scale = Simd::all(params.inv_scale);
  const Simd::F low = Simd::all(static_cast<float>(params.quant_min - params.zero_point));
  const Simd::F high = Simd::all(static_cast<float>(params.quant_max - params.zero_point));
  const Simd::I zero_point = Simd::all(params.zero_point);
  with_type(from, [&](auto source) {
    with_type(to, [&](auto target) {
      const auto* values = at<decltype(source)>(x, 0);
      auto* codes = at<decltype(target)>(q, 0);
      for_each_vector<Simd>(n, [&](int64_t i, auto load, auto store) {
        store(codes + i, quantize_vector(load(values + i), inv_scale, low, high, zero_point));
      });
    });
  });
}

inline void quantize_columns(const void* x, Float from, void* q, Int to, int64_t n,
                             const float* inv_scale, const int32_t* zero_point, int32_t quant_min,
                             int32_t quant_max) {
  with_type(from, [&](auto source) {
    with_type(to, [&](auto target) {
      const auto* values = at<decltype(source)>(x, 0);
      auto* codes = at<decltype(target)>(q, 0);
      for_each_vector<Simd>(n, [&](int64_t i, auto load, auto store) {
        const Simd::I zero = load(zero_point + i);
        const Simd::F low = Simd::to_float(Simd::subtract(Simd::all(quant_min), zero));
        const Simd::F high = Simd::to_float(Simd::subtract(Simd::all(quant_max), zero));
        store(codes + i, quantize_vector(load(values + i), load(inv_scale + i), low, high, zero));
      });
    });
  });
}

}  // namespace
}  // namespace torchquant::kernels
