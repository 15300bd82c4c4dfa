// The int8 matmul over the packed layout, one product at a time: the definition of the others.
#include "element.h"

namespace torchquant::kernels {
namespace {

constexpr int64_t kActivationBytes = 2;  // int16 holds int8 and uint8 alike

void prepare_row(const void* row, bool is_signed, int64_t k, void* prepared) {
  const int64_t padded = (k + kQuad - 1) / kQuad * kQuad;
  for (int64_t i = 0; i < padded; ++i) {
    const int16_t value = i >= k ? 0 : is_signed ? load<int8_t>(row, i) : load<uint8_t>(row, i);
    store(prepared, i, value);
  }
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

void finish(const Epilogue& e, int32_t sum, int64_t m, int64_t n, void* out, int64_t index) {
  const int32_t zero_point = e.row_zero_point ? e.row_zero_point[m] : 0;
  const int32_t weight_sum = e.row_zero_point ? load<int32_t>(e.weight_sum, n) : 0;
  if (e.type == Output::i32) {
    const int32_t offset = e.row_offset ? e.row_offset[m] : 0;
    const int32_t exact = subtract_product(sum, zero_point, weight_sum);
    return store(out, index, subtract_product(exact, offset, -1));
  }
  const float weight_scale = load<float>(e.weight_scale, n);
  float y = rescale_value(sum, zero_point, weight_sum, e.row_scale[m], weight_scale);
  if (e.bias) y = y + load<float>(e.bias, n);
  if (e.relu && y < 0) y = 0;  // NaN stays
  if (e.type == Output::f32) store(out, index, y);
  if (e.type == Output::f16) store(out, index, from_float<Half>(y));
  if (e.type == Output::bf16) store(out, index, from_float<BFloat16>(y));
}

void multiply(const MatmulSpan& s) {
  for (int64_t m = 0; m < s.rows; ++m) {
    const void* row = at<int16_t>(s.activations, m * s.quads * kQuad);
    for (int64_t panel = s.first_panel; panel < s.last_panel; ++panel) {
      int32_t sums[kPanel];
      sum_panel(row, s.weight + panel * s.quads * kPanel * kQuad, s.quads, sums);
      for (int64_t n = 0; n < kPanel && panel * kPanel + n < s.columns; ++n) {
        const int64_t column = panel * kPanel + n;
        finish(s.epilogue, sums[n], m, column, s.out, m * s.out_stride + column);
      }
    }
  }
}

}  // namespace

const MatmulKernels matmul_scalar = {kActivationBytes, 0, prepare_row, multiply};

}  // namespace torchquant::kernels
