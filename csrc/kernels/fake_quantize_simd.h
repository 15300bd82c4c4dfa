// The fake-quantize kernels over Simd: quantize_simd.h and what undoes it, without memory between.
#pragma once

#include "quantize_simd.h"

namespace torchquant::kernels {
namespace {

// Of a vector of channels.
template <class Load>
inline Bounds bounds_of(const ChannelParams& params, int64_t i, Load load) {
  const Simd::I zero_point = load(params.zero_point + i);
  return {Simd::divide(Simd::all(1.0f), load(params.scale + i)),
          Simd::to_float(Simd::subtract(Simd::all(params.quant_min), zero_point)),
          Simd::to_float(Simd::subtract(Simd::all(params.quant_max), zero_point))};
}

// Steps from the zero point are what is dequantized.
inline Simd::F fake_quantize_vector(Simd::F x, Simd::F scale, const Bounds& b) {
  const Simd::I steps = quantize_vector(x, b.inv_scale, b.low, b.high, Simd::all(0));
  return Simd::multiply(Simd::to_float(steps), scale);
}

inline void fake_quantize_runs(const void* x, Float type, void* y, int64_t runs, int64_t n,
                               const ChannelParams& params) {
  with_type(type, [&](auto element) {
    using T = decltype(element);
    for (int64_t r = 0; r < runs; ++r) {
      const Bounds b = bounds_of(params_of(params, r));
      const Simd::F scale = Simd::all(load<float>(params.scale, r));
      const T* values = at<T>(x, r * n);
      write_vectors<Simd>(at<T>(y, r * n), n, [&](int64_t i, auto load) {
        return fake_quantize_vector(load(values + i), scale, b);
      });
    }
  });
}

inline void fake_quantize_columns(const void* x, Float type, void* y, int64_t n,
                                  const ChannelParams& params) {
  with_type(type, [&](auto element) {
    const auto* values = at<decltype(element)>(x, 0);
    write_vectors<Simd>(at<decltype(element)>(y, 0), n, [&](int64_t i, auto load) {
      const Bounds b = bounds_of(params, i, load);
      return fake_quantize_vector(load(values + i), load(params.scale + i), b);
    });
  });
}

// The gradient of the output where x lies inside, zero elsewhere.
inline Simd::F pass_inside(Simd::F output, Simd::F x, const Bounds& b) {
  const Simd::F rounded = Simd::round(Simd::multiply(x, b.inv_scale));
  return Simd::where(Simd::is_between(rounded, b.low, b.high), output, Simd::all(0.0f));
}

inline void backward_runs(const Gradients& gradients, int64_t runs, int64_t n,
                          const ChannelParams& params) {
  with_type(gradients.type, [&](auto element) {
    using T = decltype(element);
    for (int64_t r = 0; r < runs; ++r) {
      const Bounds b = bounds_of(params_of(params, r));
      const T* output = at<T>(gradients.output, r * n);
      const T* x = at<T>(gradients.x, r * n);
      write_vectors<Simd>(at<T>(gradients.input, r * n), n, [&](int64_t i, auto load) {
        return pass_inside(load(output + i), load(x + i), b);
      });
    }
  });
}

inline void backward_columns(const Gradients& gradients, int64_t n, const ChannelParams& params) {
  with_type(gradients.type, [&](auto element) {
    using T = decltype(element);
    const T* output = at<T>(gradients.output, 0);
    const T* x = at<T>(gradients.x, 0);
    write_vectors<Simd>(at<T>(gradients.input, 0), n, [&](int64_t i, auto load) {
      return pass_inside(load(output + i), load(x + i), bounds_of(params, i, load));
    });
  });
}

// affine.h's slope by the scale, lane by lane: NaN fails all comparisons but the first.
inline Simd::F slope_of(Simd::F x, const Bounds& b) {
  const Simd::F v = Simd::multiply(x, b.inv_scale);
  const Simd::F rounded = Simd::round(v);
  const Simd::F inside = Simd::subtract(rounded, v);
  const Simd::F from_below = Simd::where(Simd::is_less(rounded, b.low), b.low, Simd::all(0.0f));
  const Simd::F outside = Simd::where(Simd::is_less(b.high, rounded), b.high, from_below);
  return Simd::where(Simd::is_between(rounded, b.low, b.high), inside, outside);
}

inline void add_products(double* sums, Simd::F output, Simd::F slope) {
  const Simd::D low = Simd::multiply(Simd::low_doubles(output), Simd::low_doubles(slope));
  const Simd::D high = Simd::multiply(Simd::high_doubles(output), Simd::high_doubles(slope));
  Simd::store(sums, Simd::add(Simd::load_doubles(sums), low));
  double* const upper = sums + Simd::double_lanes;
  Simd::store(upper, Simd::add(Simd::load_doubles(upper), high));
}

// One vector of values, the last of which may be cut: lanes without a value add zero.
template <class T, class Load, class Store>
inline void add_slopes(const Gradients& gradients, int64_t i, const Bounds& b, Load load,
                       Store store, double* sums) {
  const Simd::F output = load(at<T>(gradients.output, i));
  const Simd::F x = load(at<T>(gradients.x, i));
  store(at<T>(gradients.input, i), pass_inside(output, x, b));
  add_products(sums, output, slope_of(x, b));
}

inline double slope_block(const Gradients& gradients, int64_t n, const ChannelParams& params) {
  const Bounds b = bounds_of(params_of(params, 0));
  double lanes[kSumLanes] = {}, sum = 0;
  with_type(gradients.type, [&](auto element) {
    for_each_vector<Simd>(n, [&](int64_t i, auto load, auto store) {
      add_slopes<decltype(element)>(gradients, i, b, load, store, lanes + i % kSumLanes);
    });
  });
  for (const double lane : lanes) sum += lane;
  return sum;
}

template <int Rows, class T>
inline void add_rows(const Gradients& gradients, int64_t first, int64_t stride, int64_t columns,
                     const ChannelParams& params, double* sums) {
  for_each_vector<Simd>(columns, [&](int64_t j, auto load, auto store) {
    const Bounds b = bounds_of(params, j, load);
#pragma GCC unroll 4
    for (int64_t i = first; i < first + Rows; ++i) {
      double* const lane = sums + i % kSumLanes * padded_columns(columns);
      add_slopes<T>(gradients, i * stride + j, b, load, store, lane + j);
    }
  });
}

// Four rows at a time share the bounds of their columns.
inline void slope_columns(const Gradients& gradients, int64_t rows, int64_t stride, int64_t columns,
                          const ChannelParams& params, double* sums) {
  with_type(gradients.type, [&](auto element) {
    using T = decltype(element);
    int64_t i = 0;
    for (; i + 4 <= rows; i += 4) add_rows<4, T>(gradients, i, stride, columns, params, sums);
    for (; i < rows; ++i) add_rows<1, T>(gradients, i, stride, columns, params, sums);
  });
}

}  // namespace
}  // namespace torchquant::kernels
