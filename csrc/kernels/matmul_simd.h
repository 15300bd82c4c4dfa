// What the vector matmuls share: quantizing a row of activations, and the epilogue of a tile.
#pragma once

#include "quantize_simd.h"
#include "range_simd.h"
#include "vectors.h"

namespace torchquant::kernels {
namespace {

inline int32_t load_int32(const void* p) { return load<int32_t>(p, 0); }

inline const int8_t* panel_of(const MatmulSpan& s, int64_t panel) {
  return s.weight + (panel - s.first_panel) * s.quads * kPanelRow;
}

inline const uint8_t* row_of(const MatmulSpan& s, int64_t row) {
  return at<uint8_t>(s.activations, row * s.activation_stride);
}

// A weight that comes from memory arrives a quarter faster when asked for 2 KB ahead (on Zen 3).
// One that is in cache takes no harm.
inline void prefetch_ahead(const int8_t* weight) { _mm_prefetch(weight + 2048, _MM_HINT_T0); }

// quantize_row is the set's own. The row is read twice, the second time from cache.
template <class QuantizeRow>
inline QParams quantize_token_with(QuantizeRow quantize_row, const void* x, Float type, int64_t k,
                                   void* prepared) {
  const QParams chosen = affine_qparams(range_span(x, type, k), kTokenMin, kTokenMax);
  quantize_row(x, type, k, {1.0f / chosen.scale, chosen.zero_point, kTokenMin, kTokenMax},
               prepared);
  return chosen;
}

// The sums of some rows and columns, [rows][stride], from row first_row and column `column` of the
// product on. Tiles leave them in L1, so that one epilogue serves every shape of tile.
struct Sums {
  const int32_t* values;
  int64_t stride;
  int64_t first_row;
  int64_t rows;
  int64_t column;
  int64_t columns;
};

// What does not change from one column to the next. A bound of -Inf is no relu.
struct Finish {
  Epilogue epilogue;  // a copy, which no store can change
  Simd::F least = Simd::all(epilogue.relu ? 0.0f : -INFINITY);
  Simd::F inv_scale = Simd::all(epilogue.requantize.inv_scale);
  Simd::F low = bound(epilogue.requantize.quant_min);
  Simd::F high = bound(epilogue.requantize.quant_max);
  Simd::I zero_point = Simd::all(epilogue.requantize.zero_point);

  Simd::F bound(int32_t q) const {
    return Simd::all(static_cast<float>(q - epilogue.requantize.zero_point));
  }
};

// What the columns of a vector bring to the epilogue. A bias of -0.0 changes nothing.
struct Columns {
  Simd::I weight_sum;
  Simd::F scale;
  Simd::F bias;
};

template <class Load>
inline Columns load_columns(const Epilogue& e, int64_t n, Load load) {
  return {e.row_zero_point ? load(e.weight_sum + n) : Simd::all(0),
          e.type == Output::i32 ? Simd::all(1.0f) : load(e.weight_scale + n),
          e.bias ? load(e.bias + n) : Simd::all(-0.0f)};
}

inline Simd::I correct(const Epilogue& e, int64_t m, Simd::I sum, Simd::I weight_sum) {
  if (e.row_zero_point) {
    const Simd::I zero_point = Simd::all(e.row_zero_point[m * e.row_step]);
    sum = Simd::subtract(sum, Simd::multiply(zero_point, weight_sum));
  }
  return e.row_offset ? Simd::add(sum, Simd::all(e.row_offset[m])) : sum;
}

// NaN stays, as in torch.relu: maxps gives its second operand where one is NaN.
inline Simd::F rescale(const Finish& f, int64_t m, Simd::I sum, const Columns& columns) {
  const Epilogue& e = f.epilogue;
  const Simd::F t = Simd::to_float(correct(e, m, sum, columns.weight_sum));
  const Simd::F y =
      Simd::multiply(Simd::multiply(t, Simd::all(e.row_scale[m * e.row_step])), columns.scale);
  return Simd::at_least(f.least, Simd::add(y, columns.bias));
}

inline Simd::I requantize(const Finish& f, int64_t m, Simd::I sum, const Columns& columns) {
  return quantize_vector(rescale(f, m, sum, columns), f.inv_scale, f.low, f.high, f.zero_point);
}

// finished(m, sum, columns) is what row m stores for a vector of sums.
template <class T, class Finished>
inline void finish_rows(const MatmulSpan& s, const Epilogue& e, const Sums& sums,
                        Finished finished) {
  for_each_vector<Simd>(sums.columns, [&](int64_t v, auto load, auto store) {
    const int64_t n = sums.column + v;
    const Columns columns = load_columns(e, n, load);
    for (int64_t i = 0; i < sums.rows; ++i) {
      const int64_t m = sums.first_row + i;
      const Simd::I sum = Simd::load(sums.values + i * sums.stride + v);
      store(at<T>(s.out, m * s.out_stride + n), finished(m, sum, columns));
    }
  });
}

inline void finish_tile(const MatmulSpan& s, const Sums& sums) {
  const Finish f = {s.epilogue};
  const auto rescaled = [&f](const auto&... a) { return rescale(f, a...); };
  const auto requantized = [&f](const auto&... a) { return requantize(f, a...); };
  switch (s.epilogue.type) {
    case Output::i32:
      return finish_rows<int32_t>(s, f.epilogue, sums,
                                  [&f](int64_t m, Simd::I sum, const auto& columns) {
                                    return correct(f.epilogue, m, sum, columns.weight_sum);
                                  });
    case Output::f32:
      return finish_rows<float>(s, f.epilogue, sums, rescaled);
    case Output::f16:
      return finish_rows<Half>(s, f.epilogue, sums, rescaled);
    case Output::bf16:
      return finish_rows<BFloat16>(s, f.epilogue, sums, rescaled);
    case Output::i8:
      return finish_rows<int8_t>(s, f.epilogue, sums, requantized);
    case Output::u8:
      return finish_rows<uint8_t>(s, f.epilogue, sums, requantized);
  }
}

// Calls block(first, count) over rows in blocks of at most `most`, of nearly equal height: 8 rows
// in blocks of 6 are 4 + 4, never 6 + 2.
template <class Block>
inline void for_each_row_block(int64_t rows, int64_t most, Block block) {
  const int64_t blocks = (rows + most - 1) / most;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = rows * b / blocks;
    block(first, rows * (b + 1) / blocks - first);
  }
}

// The columns of `panels` panels from `panel` on that exist: a packed panel is padded, the output
// is not.
inline int64_t columns_of(const MatmulSpan& s, int64_t panel, int64_t panels) {
  const int64_t left = s.columns - panel * kPanel;
  return left < panels * kPanel ? left : panels * kPanel;
}

}  // namespace
}  // namespace torchquant::kernels
