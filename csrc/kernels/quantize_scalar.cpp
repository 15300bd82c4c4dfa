// Quantization by affine.h, one value at a time: the definition of the others.
#include "element.h"

namespace torchquant::kernels {
namespace {

template <class FloatType, class IntType>
void put_code(const void* x, void* q, int64_t i, QuantizeParams p) {
  const int32_t code = quantize_value(to_float(load<FloatType>(x, i)), p.inv_scale, p.zero_point,
                                      p.quant_min, p.quant_max);
  store(q, i, static_cast<IntType>(code));
}

void quantize_span(const void* x, Float from, void* q, Int to, int64_t n, QuantizeParams params) {
  with_type(from, [&](auto source) {
    with_type(to, [&](auto target) {
      for (int64_t i = 0; i < n; ++i) {
        put_code<decltype(source), decltype(target)>(x, q, i, params);
      }
    });
  });
}

void quantize_columns(const void* x, Float from, void* q, Int to, int64_t n, const float* inv_scale,
                      const int32_t* zero_point, int32_t quant_min, int32_t quant_max) {
  with_type(from, [&](auto source) {
    with_type(to, [&](auto target) {
      for (int64_t i = 0; i < n; ++i) {
        const QuantizeParams params = {inv_scale[i], zero_point[i], quant_min, quant_max};
        put_code<decltype(source), decltype(target)>(x, q, i, params);
      }
    });
  });
}

}  // namespace

const QuantizeKernels quantize_scalar = {quantize_span, quantize_columns};

}  // namespace torchquant::kernels
