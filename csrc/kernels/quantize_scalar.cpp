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

void quantize_runs(const void* x, Float from, void* q, Int to, int64_t runs, int64_t n,
                   const ChannelParams& params) {
  with_type(from, [&](auto source) {
    with_type(to, [&](auto target) {
      for (int64_t r = 0; r < runs; ++r) {
        const QuantizeParams p = params_of(params, r);
        for (int64_t i = r * n; i < (r + 1) * n; ++i) {
          put_code<decltype(source), decltype(target)>(x, q, i, p);
        }
      }
    });
  });
}

void quantize_columns(const void* x, Float from, void* q, Int to, int64_t n,
                      const ChannelParams& params) {
  quantize_runs(x, from, q, to, n, 1, params);
}

}  // namespace

const QuantizeKernels quantize_scalar = {quantize_runs, quantize_columns};

}  // namespace torchquant::kernels
