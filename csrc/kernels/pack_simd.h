// The walk of the vector packing kernels over a panel: whole steps where they lie, the rest by way
// of a small copy filled up with bytes that the flip makes zero.
#pragma once

#include "element.h"

namespace torchquant::kernels {
namespace {

constexpr int64_t kPanelRow = kPanel * kQuad;

// Transpose::columns packs kPanel columns of Transpose::step bytes, column_stride apart;
// Transpose::quad packs kQuad rows of kPanel bytes, k_stride apart, into one row of the panel.
template <class Transpose>
inline void pack_along_depth(const int8_t* weight, int64_t column_stride, int64_t columns,
                             int64_t k, uint8_t flip, int8_t* panel) {
  constexpr int64_t kStep = Transpose::step, kRowsOfStep = kStep / kQuad;
  int64_t i = 0;
  if (columns == kPanel) {
    for (; i + kStep <= k; i += kStep) {
      Transpose::columns(weight + i, column_stride, flip, panel + i / kQuad * kPanelRow);
    }
  }
  for (; i < k; i += kStep) {
    const int64_t count = k - i < kStep ? k - i : kStep;
    int8_t bytes[kPanel * kStep], rows[kRowsOfStep * kPanelRow];
    memset(bytes, flip, sizeof(bytes));
    for (int64_t n = 0; n < columns; ++n) {
      memcpy(bytes + n * kStep, weight + n * column_stride + i, static_cast<size_t>(count));
    }
    Transpose::columns(bytes, kStep, flip, rows);
    const int64_t quads = (count + kQuad - 1) / kQuad;
    memcpy(panel + i / kQuad * kPanelRow, rows, static_cast<size_t>(quads * kPanelRow));
  }
}

template <class Transpose>
inline void pack_across_depth(const int8_t* weight, int64_t k_stride, int64_t columns, int64_t k,
                              uint8_t flip, int8_t* panel) {
  int64_t i = 0;
  if (columns == kPanel) {
    for (; i + kQuad <= k; i += kQuad, panel += kPanelRow) {
      Transpose::quad(weight + i * k_stride, k_stride, flip, panel);
    }
  }
  for (; i < k; i += kQuad, panel += kPanelRow) {
    int8_t bytes[kPanelRow];
    memset(bytes, flip, sizeof(bytes));
    for (int64_t j = 0; j < kQuad && i + j < k; ++j) {
      memcpy(bytes + j * kPanel, weight + (i + j) * k_stride, static_cast<size_t>(columns));
    }
    Transpose::quad(bytes, kPanel, flip, panel);
  }
}

template <class Transpose>
inline void pack_with(const int8_t* weight, int64_t column_stride, int64_t k_stride,
                      int64_t columns, int64_t k, uint8_t flip, int8_t* panel) {
  if (k_stride == 1) {
    return pack_along_depth<Transpose>(weight, column_stride, columns, k, flip, panel);
  }
  if (column_stride == 1) {
    return pack_across_depth<Transpose>(weight, k_stride, columns, k, flip, panel);
  }
  pack_scalar.pack(weight, column_stride, k_stride, columns, k, flip, panel);
}

}  // namespace
}  // namespace torchquant::kernels
