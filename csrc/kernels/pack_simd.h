// The walk of the vector packing kernels over a panel: whole steps where they lie, the rest by way
// of a small copy filled up with bytes that the flip makes zero.
#pragma once

#include "element.h"

namespace torchquant::kernels {
namespace {

// Rows of the depth, each of which may lie in a page of its own, that are asked for ahead.
constexpr int64_t kRowsAhead = 32;

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
    memcpy(panel + i / kQuad * kPanelRow, rows, static_cast<size_t>(quads_of(count) * kPanelRow));
  }
}

// Some rows of the depth, fewer than kQuad perhaps, and some columns, fewer than kPanel perhaps.
template <class Transpose>
inline void pack_part_of_quad(const int8_t* weight, int64_t k_stride, int64_t columns, int64_t rows,
                              uint8_t flip, int8_t* row) {
  int8_t bytes[kPanelRow];
  memset(bytes, flip, sizeof(bytes));
  for (int64_t j = 0; j < rows; ++j) {
    memcpy(bytes + j * kPanel, weight + j * k_stride, static_cast<size_t>(columns));
  }
  Transpose::quad(bytes, kPanel, flip, row);
}

// All panels of a row of the depth while its cache line is there.
template <class Transpose>
inline void pack_across_depth(const int8_t* weight, int64_t k_stride, int64_t columns, int64_t k,
                              uint8_t flip, int8_t* panels) {
  const int64_t panel_bytes = quads_of(k) * kPanelRow;
  for (int64_t i = 0; i < k; i += kQuad, weight += kQuad * k_stride, panels += kPanelRow) {
    const int64_t rows = k - i < kQuad ? k - i : kQuad;
    if (i + kRowsAhead + kQuad <= k) {
      for (int64_t j = 0; j < kQuad; ++j) {
        _mm_prefetch(weight + (kRowsAhead + j) * k_stride, _MM_HINT_T0);
      }
    }
    for (int64_t n = 0; n < columns; n += kPanel) {
      int8_t* row = panels + n / kPanel * panel_bytes;
      if (rows == kQuad && n + kPanel <= columns) {
        Transpose::quad(weight + n, k_stride, flip, row);
      } else {
        const int64_t count = columns - n < kPanel ? columns - n : kPanel;
        pack_part_of_quad<Transpose>(weight + n, k_stride, count, rows, flip, row);
      }
    }
  }
}

template <class Transpose>
inline void pack_with(const int8_t* weight, int64_t column_stride, int64_t k_stride,
                      int64_t columns, int64_t k, uint8_t flip, int8_t* panels) {
  if (k_stride == 1) {
    const int64_t panel_bytes = quads_of(k) * kPanelRow;
    for (int64_t n = 0; n < columns; n += kPanel, panels += panel_bytes) {
      const int64_t count = columns - n < kPanel ? columns - n : kPanel;
      pack_along_depth<Transpose>(weight + n * column_stride, column_stride, count, k, flip,
                                  panels);
    }
  } else if (column_stride == 1) {
    pack_across_depth<Transpose>(weight, k_stride, columns, k, flip, panels);
  } else {
    pack_scalar.pack(weight, column_stride, k_stride, columns, k, flip, panels);
  }
}

}  // namespace
}  // namespace torchquant::kernels
