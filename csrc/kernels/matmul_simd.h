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

// The sums of row m and columns n, n + 1, ...: rescale_value of affine.h, then what follows it.
template <class Load, class Store>
inline void finish_vector(const MatmulSpan& s, int64_t m, int64_t n, Simd::I sum, Load load,
                          Store store) {
  const Epilogue& e = s.epilogue;
  const int64_t index = m * s.out_stride + n;
  if (e.row_zero_point) {
    const Simd::I zero_point = Simd::all(e.row_zero_point[m]);
    sum = Simd::subtract(sum, Simd::multiply(zero_point, load(e.weight_sum + n)));
  }
  if (e.type == Output::i32) {
    if (e.row_offset) sum = Simd::add(sum, Simd::all(e.row_offset[m]));
    return store(at<int32_t>(s.out, index), sum);
  }
  Simd::F y = Simd::multiply(Simd::to_float(sum), Simd::all(e.row_scale[m]));
  y = Simd::multiply(y, load(e.weight_scale + n));
  if (e.bias) y = Simd::add(y, load(e.bias + n));
  if (e.relu) y = relu(y);
  store_float(e.type, s.out, index, y, store);
}

// The same, cut to the columns that exist: a packed panel is padded, the output is not.
inline void finish(const MatmulSpan& s, int64_t m, int64_t n, Simd::I sum) {
  const int64_t count = s.columns - n;
  if (count >= Simd::lanes) {
    finish_vector(
        s, m, n, sum, [](auto* from) { return Simd::load(from); },
        [](auto* to, auto x) { Simd::store(to, x); });
  } else if (count > 0) {
    finish_vector(
        s, m, n, sum, [count](auto* from) { return load_first<Simd>(from, count); },
        [count](auto* to, auto x) { store_first<Simd>(to, x, count); });
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
