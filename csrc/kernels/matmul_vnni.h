// The int8 matmul over vpdpbusd, which adds four products of an unsigned and a signed byte to each
// int32, modulo 2^32. Written over a small Vnni (its vectors, and how many of them fit the
// registers), beside the Simd of the epilogue.
#pragma once

#include "matmul_simd.h"

namespace torchquant::kernels {
namespace {

constexpr int64_t kActivationBytes = 1;
constexpr int32_t kSignedOffset = 128;  // int8 as an unsigned byte: the sign bit flipped
constexpr int kMaxPanels = 4;

// Bytes are multiplied as they are, int8 ones flipped on their way into a register.
void prepare_row(const void* row, bool, int64_t k, void* prepared) {
  memcpy(prepared, row, static_cast<size_t>(k));
  for (int64_t i = k; i % kQuad != 0; ++i) store(prepared, i, uint8_t{0});
}

void quantize_row(const void* x, Float type, int64_t k, QuantizeParams params, void* prepared) {
  with_type(type, [&](auto element) {
    quantize_run(at<decltype(element)>(x, 0), at<uint8_t>(prepared, 0), k, params);
  });
  for (int64_t i = k; i % kQuad != 0; ++i) store(prepared, i, uint8_t{0});
}

QParams quantize_token(const void* x, Float type, int64_t k, void* prepared) {
  return quantize_token_with(quantize_row, x, type, k, prepared);
}

// Each quad of activations is broadcast and meets P panels. Every index is a constant once the
// loops are unrolled, or the sums would live in memory.
template <int R, int P>
void multiply_tile(const MatmulSpan& s, int64_t first_row, int64_t panel) {
  constexpr int kVectors = P * Vnni::vectors;
  const Vnni::V flip = Vnni::all(s.is_signed ? kSignedOffset : 0);
  const uint8_t* rows = row_of(s, first_row);
  const int8_t* weight = panel_of(s, panel);
  const int64_t panel_stride = s.quads * kPanelRow;
  Vnni::V sums[R][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[i][v] = Vnni::zero();
  }
  for (int64_t quad = 0; quad < s.quads; ++quad, weight += kPanelRow, rows += kQuad) {
    Vnni::V weights[kVectors];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) prefetch_ahead(weight + p * panel_stride);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      weights[v] =
          Vnni::load(weight + v / Vnni::vectors * panel_stride + v % Vnni::vectors * Vnni::bytes);
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const Vnni::V quad_of_row = Vnni::broadcast(rows + i * s.activation_stride, flip);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        sums[i][v] = Vnni::dot(sums[i][v], quad_of_row, weights[v]);
      }
    }
  }
  int32_t stored[R][P * kPanel];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) Simd::store(stored[i] + v * Simd::lanes, sums[i][v]);
  }
  finish_tile(s, {stored[0], P * kPanel, first_row, R, panel * kPanel, columns_of(s, panel, P)});
}

using Tile = void (*)(const MatmulSpan&, int64_t first_row, int64_t panel);

template <int R, int P>
constexpr Tile tile() {
  if constexpr (R * P * Vnni::vectors <= Vnni::accumulators) return multiply_tile<R, P>;
  return nullptr;
}

template <int P>
constexpr Tile kTiles[] = {tile<1, P>(),  tile<2, P>(),  tile<3, P>(),  tile<4, P>(),
                           tile<5, P>(),  tile<6, P>(),  tile<7, P>(),  tile<8, P>(),
                           tile<9, P>(),  tile<10, P>(), tile<11, P>(), tile<12, P>(),
                           tile<13, P>(), tile<14, P>(), tile<15, P>(), tile<16, P>()};
constexpr const Tile* kTilesOf[kMaxPanels] = {kTiles<1>, kTiles<2>, kTiles<3>, kTiles<4>};

// Up to max_rows rows meet each panel once: there the weight is the traffic. More of them go in
// blocks of 6, the height that leaves registers for 64 columns (zmm), and a group of panels stays
// in L2 meanwhile.
void multiply(const MatmulSpan& s) {
  const int64_t height = s.rows <= Vnni::max_rows ? s.rows : Vnni::block_rows;
  const int64_t fitting = Vnni::accumulators / (height * Vnni::vectors);
  const int64_t most = fitting < kMaxPanels ? fitting : kMaxPanels;
  for (int64_t panel = s.first_panel; panel < s.last_panel; panel += most) {
    const int64_t panels = s.last_panel - panel < most ? s.last_panel - panel : most;
    for_each_row_block(s.rows, height, [&](int64_t first, int64_t count) {
      kTilesOf[panels - 1][count - 1](s, first, panel);
    });
  }
}

}  // namespace
}  // namespace torchquant::kernels
