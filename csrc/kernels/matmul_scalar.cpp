// The int8 matmul over the packed layout, one product at a time: the definition of the others.
#include "element.h"

namespace torchquant::kernels {
namespace {

constexpr int64_t kActivationBytes = 2;                   // int16 holds int8 and uint8 alike
constexpr int64_t kProductsPerThread = int64_t{1} << 13;  // 5 per ns

int64_t padded(int64_t k) { return quads_of(k) * kQuad; }

void prepare_row(const void* row, bool is_signed, int64_t k, void* prepared) {
  for (int64_t i = 0; i < padded(k); ++i) {
    const int16_t value = i >= k ? 0 : is_signed ? load<int8_t>(row, i) : load<uint8_t>(row, i);
    store(prepared, i, value);
  }
}

void quantize_row(const void* x, Float type, int64_t k, QuantizeParams p, void* prepared) {
  with_type(type, [&](auto element) {
    for (int64_t i = 0; i < k; ++i) {
      const int32_t q = quantize_value(to_float(load<decltype(element)>(x, i)), p.inv_scale,
                                       p.zero_point, p.quant_min, p.quant_max);
      store(prepared, i, static_cast<int16_t>(q));
    }
  });
  for (int64_t i = k; i < padded(k); ++i) store(prepared, i, int16_t{0});
}

QParams quantize_token(const void* x, Float type, int64_t k, void* prepared) {
  const QParams chosen = affine_qparams(range_scalar.span(x, type, k), kTokenMin, kTokenMax);
  quantize_row(x, type, k, {1.0f / chosen.scale, chosen.zero_point, kTokenMin, kTokenMax},
               prepared);
  return chosen;
}

void sum_panel(const void* row, const int8_t* panel, int64_t quads, int32_t* sums) {
  for (int64_t n = 0; n < kPanel; ++n) sums[n] = 0;
  for (int64_t quad = 0; quad < quads; ++quad) {
    for (int64_t n = 0; n < kPanel; ++n) {
      for (int64_t k = 0; k < kQuad; ++k) {
        const int32_t a = load<int16_t>(row, quad * kQuad + k);
        sums[n] = subtract_product(sums[n], -a, panel[(quad * kPanel + n) * kQuad + k]);
      }
    }
  }
}

float rescale(const Epilogue& e, int32_t sum, int64_t m, int64_t n) {
  float y = rescale_value(sum, e.row_scale[m * e.row_step], load<float>(e.weight_scale, n));
  if (e.bias) y = y + load<float>(e.bias, n);
  return e.relu && y < 0 ? 0 : y;  // NaN stays
}

void finish(const Epilogue& e, int32_t sum, int64_t m, int64_t n, void* out, int64_t index) {
  if (e.row_zero_point) {
    const int32_t zero_point = e.row_zero_point[m * e.row_step];
    sum = subtract_product(sum, zero_point, load<int32_t>(e.weight_sum, n));
  }
  if (e.row_offset) sum = subtract_product(sum, e.row_offset[m], -1);
  if (e.type == Output::i32) return store(out, index, sum);
  const float y = rescale(e, sum, m, n);
  if (e.type == Output::f32) return store(out, index, y);
  if (e.type == Output::f16) return store(out, index, from_float<Half>(y));
  if (e.type == Output::bf16) return store(out, index, from_float<BFloat16>(y));
  const QuantizeParams& to = e.requantize;
  const int32_t q = quantize_value(y, to.inv_scale, to.zero_point, to.quant_min, to.quant_max);
  store(out, index, static_cast<uint8_t>(q));  // the bits of int8 too
}

void multiply(const MatmulSpan& s) {
  for (int64_t m = 0; m < s.rows; ++m) {
    const void* row = at<char>(s.activations, m * s.activation_stride);
    for (int64_t panel = s.first_panel; panel < s.last_panel; ++panel) {
      int32_t sums[kPanel];
      sum_panel(row, s.weight + (panel - s.first_panel) * s.quads * kPanelRow, s.quads, sums);
      for (int64_t n = 0; n < kPanel && panel * kPanel + n < s.columns; ++n) {
        const int64_t column = panel * kPanel + n;
        finish(s.epilogue, sums[n], m, column, s.out, m * s.out_stride + column);
      }
    }
  }
}

}  // namespace

const MatmulKernels matmul_scalar = {
    kActivationBytes, 0, kProductsPerThread, prepare_row, quantize_row, quantize_token, multiply, 0,
    nullptr};

}  // namespace torchquant::kernels
