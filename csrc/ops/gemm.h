// One int8 matrix product over a packed weight, cut into one piece of work for each thread.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "kernel_types.h"

namespace torchquant::ops {

// rows x columns outputs over `depth` products each, row_* pointers for row 0.
struct Gemm {
  int64_t rows;
  int64_t depth;
  int64_t columns;
  const int8_t* weight;
  kernels::Epilogue epilogue;
  void* out;
  int64_t out_element_size;

  int64_t quads() const { return (depth + kernels::kQuad - 1) / kernels::kQuad; }
  int64_t panels() const { return (columns + kernels::kPanel - 1) / kernels::kPanel; }
};

// A thread should have this many products, some 10 us of work, or its start costs more than it
// saves.
inline constexpr int64_t kProductsPerThread = int64_t{1} << 20;

// Prepared activations of one pass over the weight: half of a small L2, and a multiple of the 6
// rows of a tile.
inline constexpr int64_t kRowBlockBytes = 256 * 1024;
inline constexpr int64_t kMinRowBlock = 24;
inline constexpr int64_t kMaxRowBlock = 192;

// With fewer rows for each thread the weight, not the activations, is what threads should share
// out.
inline constexpr int64_t kRowsWorthAThread = 12;

inline int64_t prepared_row_bytes(const Gemm& gemm) {
  return gemm.quads() * kernels::kQuad * kernels::active().matmul.activation_bytes;
}

// Multiplies rows [first, first + count), prepared one after the other, with some of the panels.
inline void multiply_block(const Gemm& gemm, const uint8_t* prepared, int64_t first, int64_t count,
                           int64_t first_panel, int64_t last_panel) {
  kernels::Epilogue epilogue = gemm.epilogue;
  if (epilogue.row_zero_point) epilogue.row_zero_point += first;
  if (epilogue.row_offset) epilogue.row_offset += first;
  if (epilogue.row_scale) epilogue.row_scale += first;
  char* out = static_cast<char*>(gemm.out) + first * gemm.columns * gemm.out_element_size;
  kernels::active().matmul.multiply({prepared, count, gemm.quads(), gemm.weight, first_panel,
                                     last_panel, gemm.columns, epilogue, out, gemm.columns});
}

// Every thread takes rows, and prepares and multiplies them while they are in its L2.
template <class PrepareRow>
void multiply_by_rows(const Gemm& gemm, PrepareRow prepare_row) {
  const int64_t row_bytes = prepared_row_bytes(gemm);
  const int64_t block = std::clamp(kRowBlockBytes / std::max<int64_t>(1, row_bytes) / 6 * 6,
                                   kMinRowBlock, kMaxRowBlock);
  const int64_t row_products = std::max<int64_t>(1, gemm.depth * gemm.columns);
  at::parallel_for(
      0, gemm.rows, at::divup(kProductsPerThread, row_products), [&](int64_t begin, int64_t end) {
        const auto prepared =
            std::make_unique_for_overwrite<uint8_t[]>(std::min(block, end - begin) * row_bytes);
        for (int64_t first = begin; first < end; first += block) {
          const int64_t count = std::min(block, end - first);
          for (int64_t i = 0; i < count; ++i) prepare_row(first + i, &prepared[i * row_bytes]);
          multiply_block(gemm, prepared.get(), first, count, 0, gemm.panels());
        }
      });
}

// All rows are prepared first; then every thread streams its own panels of the weight once.
template <class PrepareRow>
void multiply_by_panels(const Gemm& gemm, PrepareRow prepare_row) {
  constexpr int64_t kPanelGroup = 4;  // a tile of AVX-512 takes four panels at once
  const int64_t row_bytes = prepared_row_bytes(gemm);
  const auto prepared = std::make_unique_for_overwrite<uint8_t[]>(gemm.rows * row_bytes);
  at::parallel_for(0, gemm.rows, at::divup(kGrain, std::max<int64_t>(1, gemm.depth)),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i) prepare_row(i, &prepared[i * row_bytes]);
                   });
  const int64_t groups = at::divup(gemm.panels(), kPanelGroup);
  const int64_t group_products =
      std::max<int64_t>(1, gemm.rows * gemm.depth * kPanelGroup * kernels::kPanel);
  at::parallel_for(0, groups, at::divup(kProductsPerThread, group_products),
                   [&](int64_t begin, int64_t end) {
                     multiply_block(gemm, prepared.get(), 0, gemm.rows, begin * kPanelGroup,
                                    std::min(end * kPanelGroup, gemm.panels()));
                   });
}

// prepare_row(m, prepared) lays out row m and fills its row_* values of the epilogue.
template <class PrepareRow>
void run(const Gemm& gemm, PrepareRow prepare_row) {
  if (gemm.rows == 0 || gemm.columns == 0) return;
  if (gemm.rows >= kRowsWorthAThread * at::get_num_threads()) {
    multiply_by_rows(gemm, prepare_row);
  } else {
    multiply_by_panels(gemm, prepare_row);
  }
}

}  // namespace torchquant::ops
