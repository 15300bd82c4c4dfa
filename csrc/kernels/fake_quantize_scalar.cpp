// Fake quantization by affine.h, one value at a time: the definition of the others.
#include "element.h"

namespace torchquant::kernels {
namespace {

template <class T>
void put_value(const void* x, void* y, int64_t i, float scale, const QuantizeParams& p) {
  const int32_t q =
      quantize_value(to_float(load<T>(x, i)), p.inv_scale, p.zero_point, p.quant_min, p.quant_max);
  store(y, i, from_float<T>(dequantize_value(q, p.zero_point, scale)));
}

void fake_quantize_runs(const void* x, Float type, void* y, int64_t runs, int64_t n,
                        const ChannelParams& params) {
  with_type(type, [&](auto element) {
    for (int64_t r = 0; r < runs; ++r) {
      const float scale = load<float>(params.scale, r);
      const QuantizeParams p = params_of(params, r);
      for (int64_t i = r * n; i < (r + 1) * n; ++i) {
        put_value<decltype(element)>(x, y, i, scale, p);
      }
    }
  });
}

void fake_quantize_columns(const void* x, Float type, void* y, int64_t n,
                           const ChannelParams& params) {
  fake_quantize_runs(x, type, y, n, 1, params);
}

// Writes the gradient of input i and returns its share of that of the scale.
template <class T>
double put_gradient(const Gradients& gradients, int64_t i, const QuantizeParams& p) {
  const float output = to_float(load<T>(gradients.output, i));
  const FakeQuantizeSlope at_x = fake_quantize_slope(to_float(load<T>(gradients.x, i)), p.inv_scale,
                                                     p.zero_point, p.quant_min, p.quant_max);
  store(gradients.input, i, from_float<T>(at_x.inside ? output : 0.0f));
  return static_cast<double>(output) * at_x.slope;
}

void backward_runs(const Gradients& gradients, int64_t runs, int64_t n,
                   const ChannelParams& params) {
  with_type(gradients.type, [&](auto element) {
    for (int64_t r = 0; r < runs; ++r) {
      const QuantizeParams p = params_of(params, r);
      for (int64_t i = r * n; i < (r + 1) * n; ++i) {
        put_gradient<decltype(element)>(gradients, i, p);
      }
    }
  });
}

void backward_columns(const Gradients& gradients, int64_t n, const ChannelParams& params) {
  backward_runs(gradients, n, 1, params);
}

double slope_block(const Gradients& gradients, int64_t n, const ChannelParams& params) {
  const QuantizeParams p = params_of(params, 0);
  double lanes[kSumLanes] = {}, sum = 0;
  with_type(gradients.type, [&](auto element) {
    for (int64_t i = 0; i < n; ++i) {
      lanes[i % kSumLanes] += put_gradient<decltype(element)>(gradients, i, p);
    }
  });
  for (const double lane : lanes) sum += lane;
  return sum;
}

void slope_columns(const Gradients& gradients, int64_t rows, int64_t stride, int64_t columns,
                   const ChannelParams& params, double* sums) {
  with_type(gradients.type, [&](auto element) {
    for (int64_t i = 0; i < rows; ++i) {
      double* lane = sums + i % kSumLanes * padded_columns(columns);
      for (int64_t j = 0; j < columns; ++j) {
        lane[j] += put_gradient<decltype(element)>(gradients, i * stride + j, params_of(params, j));
      }
    }
  });
}

}  // namespace

const FakeQuantizeKernels fake_quantize_scalar = {fake_quantize_runs, fake_quantize_columns,
                                                  backward_runs,      backward_columns,
                                                  slope_block,        slope_columns};

}  // namespace torchquant::kernels
