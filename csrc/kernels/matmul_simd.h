// What the vector matmuls share: the walk over tiles and the epilogue of a vector of sums.
#pragma once

#include "tail.h"

namespace torchquant::kernels {
namespace {

// 16 outputs x 4 inputs: one row of a packed panel, in bytes.
constexpr int64_t kPanelRow = kPanel * kQuad;

inline int32_t load_int32(const void* p) { return load<int32_t>(p, 0); }

inline const int8_t* panel_of(const MatmulSpan& s, int64_t panel) {
  return s.weight + panel * s.quads * kPanelRow;
}

// NaN stays, as in torch.relu: maxps gives its second operand where one is NaN.
inline Simd::F relu(Simd::F y) { return Simd::at_least(Simd::all(0.0f), y); }

template <class Store>
inline void store_float(Output type, void* out, int64_t index, Simd::F y, Store store) {
  if (type == Output::f32) return store(at<float>(out, index), y);
  if (type == Output::f16) return store(at<Half>(out, index), y);
  store(at<BFloat16>(out, index), y);
}

// Vector v of each row of a tile, columns n and on: rescale_value of affine.h, then what follows
// it.
template <int R, int V, class Load, class Store>
inline void finish_vector(const MatmulSpan& s, const Epilogue& e, int64_t first_row, int64_t n,
                          const Simd::I (&sums)[R][V], int v, Load load, Store store) {
  const Simd::I weight_sum = e.row_zero_point ? load(e.weight_sum + n) : Simd::all(0);
  const bool integer = e.type == Output::i32;
  const Simd::F weight_scale = integer ? Simd::all(0.0f) : load(e.weight_scale + n);
  const Simd::F bias = e.bias ? load(e.bias + n) : Simd::all(0.0f);
#pragma GCC unroll 6
  for (int i = 0; i < R; ++i) {
    const int64_t m = first_row + i;
    const int64_t index = m * s.out_stride + n;
    Simd::I sum = sums[i][v];
    if (e.row_zero_point) {
      const Simd::I zero_point = Simd::all(e.row_zero_point[m]);
      sum = Simd::subtract(sum, Simd::multiply(zero_point, weight_sum));
    }
    if (integer) {
      if (e.row_offset) sum = Simd::add(sum, Simd::all(e.row_offset[m]));
      store(at<int32_t>(s.out, index), sum);
      continue;
    }
    Simd::F y = Simd::multiply(Simd::to_float(sum), Simd::all(e.row_scale[m]));
    y = Simd::multiply(y, weight_scale);
    if (e.bias) y = Simd::add(y, bias);
    if (e.relu) y = relu(y);
    store_float(e.type, s.out, index, y, store);
  }
}

// The sums of a tile of R rows and V vectors, cut to the columns that exist: a packed panel is
// padded, the output is not.
template <int R, int V>
inline void finish_tile(const MatmulSpan& s, int64_t first_row, int64_t column,
                        const Simd::I (&sums)[R][V]) {
  const Epilogue epilogue = s.epilogue;  // a copy, which no store can change
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    const int64_t n = column + v * Simd::lanes;
    const int64_t count = s.columns - n;
    if (count >= Simd::lanes) {
      finish_vector(
          s, epilogue, first_row, n, sums, v, [](auto* from) { return Simd::load(from); },
          [](auto* to, auto x) { Simd::store(to, x); });
    } else if (count > 0) {
      finish_vector(
          s, epilogue, first_row, n, sums, v,
          [count](auto* from) { return load_first<Simd>(from, count); },
          [count](auto* to, auto x) { store_first<Simd>(to, x, count); });
    }
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

}  // namespace
}  // namespace torchquant::kernels
