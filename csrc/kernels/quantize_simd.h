// The quantize kernels over Simd: affine.h's quantize_value for ordinary zero points, where its
// last clamp changes nothing.
#pragma once

#include "vectors.h"

namespace torchquant::kernels {
namespace {

inline Simd::I quantize_vector(Simd::F x, Simd::F inv_scale, Simd::F low, Simd::F high,
                               Simd::I zero_point) {
  const Simd::F v = Simd::at_most(Simd::at_least(Simd::multiply(x, inv_scale), low), high);
  return Simd::add(Simd::round_to_int(v), zero_point);
}

// A channel's range, as steps from its zero point.
struct Bounds {
  Simd::F inv_scale;
  Simd::F low;
  Simd::F high;
};

inline Bounds bounds_of(const QuantizeParams& params) {
  return {Simd::all(params.inv_scale),
          Simd::all(static_cast<float>(params.quant_min - params.zero_point)),
          Simd::all(static_cast<float>(params.quant_max - params.zero_point))};
}

// With a zero point for each lane it is cheaper to clamp the sum. The bounds before it only keep
// the conversion from overflowing: 2^24 more or less than any ordinary zero point is no code.
inline Simd::I quantize_lanes(Simd::F x, Simd::F inv_scale, Simd::I zero_point, Simd::I quant_min,
                              Simd::I quant_max) {
  const Simd::F v = Simd::at_most(Simd::at_least(Simd::multiply(x, inv_scale), Simd::all(-0x1p24f)),
                                  Simd::all(0x1p24f));
  const Simd::I q = Simd::add(Simd::round_to_int(v), zero_point);
  return Simd::smaller(Simd::larger(q, quant_min), quant_max);
}

template <class From, class To>
inline void quantize_run(const From* x, To* q, int64_t n, QuantizeParams params) {
  const Bounds b = bounds_of(params);
  const Simd::I zero = Simd::all(params.zero_point);
  write_vectors<Simd>(q, n, [&](int64_t i, auto load) {
    return quantize_vector(load(x + i), b.inv_scale, b.low, b.high, zero);
  });
}

inline void quantize_runs(const void* x, Float from, void* q, Int to, int64_t runs, int64_t n,
                          const ChannelParams& params) {
  with_type(from, [&](auto source) {
    with_type(to, [&](auto target) {
      for (int64_t r = 0; r < runs; ++r) {
        quantize_run(at<decltype(source)>(x, r * n), at<decltype(target)>(q, r * n), n,
                     params_of(params, r));
      }
    });
  });
}

inline void quantize_columns(const void* x, Float from, void* q, Int to, int64_t n,
                             const ChannelParams& params) {
  const Simd::F one = Simd::all(1.0f);
  const Simd::I low = Simd::all(params.quant_min), high = Simd::all(params.quant_max);
  with_type(from, [&](auto source) {
    with_type(to, [&](auto target) {
      const auto* values = at<decltype(source)>(x, 0);
      write_vectors<Simd>(at<decltype(target)>(q, 0), n, [&](int64_t i, auto load) {
        const Simd::F inv_scale = Simd::divide(one, load(params.scale + i));
        return quantize_lanes(load(values + i), inv_scale, load(params.zero_point + i), low, high);
      });
    });
  });
}

}  // namespace
}  // namespace torchquant::kernels
