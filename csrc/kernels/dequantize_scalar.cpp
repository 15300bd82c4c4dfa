// Dequantization by affine.h, one value at a time: the definition of the others.
#include "element.h"

namespace torchquant::kernels {
namespace {

template <class IntType, class FloatType>
void put_value(const void* q, void* x, int64_t i, float scale, int32_t zero_point) {
  const float value = dequantize_value(load<IntType>(q, i), zero_point, scale);
  store(x, i, from_float<FloatType>(value));
}

void dequantize_runs(const void* q, Int from, void* x, Float to, int64_t runs, int64_t n,
                     const float* scale, const int32_t* zero_point) {
  with_type(from, [&](auto source) {
    with_type(to, [&](auto target) {
      for (int64_t r = 0; r < runs; ++r) {
        const float one_scale = load<float>(scale, r);
        const auto zero = load<int32_t>(zero_point, r);
        for (int64_t i = r * n; i < (r + 1) * n; ++i) {
          put_value<decltype(source), decltype(target)>(q, x, i, one_scale, zero);
        }
      }
    });
  });
}

void dequantize_columns(const void* q, Int from, void* x, Float to, int64_t n, const float* scale,
                        const int32_t* zero_point) {
  dequantize_runs(q, from, x, to, n, 1, scale, zero_point);
}

}  // namespace

const DequantizeKernels dequantize_scalar = {dequantize_runs, dequantize_columns};

}  // namespace torchquant::kernels
