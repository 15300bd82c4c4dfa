// Dequantization by affine.h, one value at a time: the definition of the others.
#include "element.h"

namespace torchquant::kernels {
namespace {

template <class IntType, class FloatType>
void put_value(const void* q, void* x, int64_t i, float scale, int32_t zero_point) {
  const float value = dequantize_value(load<IntType>(q, i), zero_point, scale);
  store(x, i, from_float<FloatType>(value));
}

void dequantize_span(const void* q, Int from, void* x, Float to, int64_t n, float scale,
                     int32_t zero_point) {
  with_type(from, [&](auto source) {
    with_type(to, [&](auto target) {
      for (int64_t i = 0; i < n; ++i) {
        put_value<decltype(source), decltype(target)>(q, x, i, scale, zero_point);
      }
    });
  });
}

void dequantize_columns(const void* q, Int from, void* x, Float to, int64_t n, const float* scale,
                        const int32_t* zero_point) {
  with_type(from, [&](auto source) {
    with_type(to, [&](auto target) {
      for (int64_t i = 0; i < n; ++i) {
        put_value<decltype(source), decltype(target)>(q, x, i, scale[i], zero_point[i]);
      }
    });
  });
}

}  // namespace

const DequantizeKernels dequantize_scalar = {dequantize_span, dequantize_columns};

}  // namespace torchquant::kernels
