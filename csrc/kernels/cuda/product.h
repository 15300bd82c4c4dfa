// Where the int8 product on the tensor cores finds its operands: a block of threads brings tiles of
// the activations and of the packed weight into shared memory, 16 bytes at a time, and its warps
// read from there what the lanes of an instruction m16n8k32 hold.
//
// That instruction has lane l = 4 * g + t hold, of 32 inputs in eight quads of four: of the
// activations quads t and t + 4 of rows g and g + 8; of the weight quads t and t + 4 of column g;
// and of the sums those of rows g and g + 8 and columns 2 * t and 2 * t + 1. Which output a column
// stands for is ours to say: two instructions share a panel of 16, and column c of the first is
// output 2 * c, of the second 2 * c + 1, so that a lane reads two quads that lie side by side, and
// ends up with four sums that do.
#pragma once

#include "matmul.h"

namespace torchquant::kernels::cuda {
namespace {

constexpr int kDepth = 128;  // inputs of a tile
constexpr int kDepthChunks = kDepth / kChunk;
constexpr int kDepthQuads = kDepth / kQuad;
constexpr int kStepQuads = 8;  // of one instruction
constexpr int kSteps = kDepthQuads / kStepQuads;
constexpr int kRowTile = 16;  // rows of one instruction
constexpr int kLanes = 32;
constexpr int kPanelTile = kDepthQuads * static_cast<int>(kPanelRow);  // bytes of a panel in a tile

// Warps in rows and columns, each with so many row tiles and panels.
template <int kWarpRowTiles, int kWarpPanels, int kWarpRows, int kWarpColumns, int kStages_>
struct TileShape {
  static constexpr int kRowTiles = kWarpRowTiles;
  static constexpr int kPanels = kWarpPanels;
  static constexpr int kColumnsOfWarps = kWarpColumns;
  static constexpr int kStages = kStages_;  // tiles in flight
  static constexpr int kThreads = kWarpRows * kWarpColumns * kLanes;
  static constexpr int kRows = kWarpRows * kWarpRowTiles * kRowTile;
  static constexpr int kBlockPanels = kWarpColumns * kWarpPanels;
  static constexpr int kColumns = kBlockPanels * static_cast<int>(kPanel);
  static constexpr int kSumsStride = kColumns + 4;  // eight rows in different banks
  static constexpr int kActivationBytes = kRows * kDepth;
  static constexpr int kStageBytes = kActivationBytes + kBlockPanels * kPanelTile;
  static_assert(kRows * kSumsStride * sizeof(int32_t) <= kStages * kStageBytes);
};

using LargeTiles = TileShape<4, 4, 2, 2, 3>;   // 128 x 128, 96 KiB
using MiddleTiles = TileShape<2, 2, 2, 2, 4>;  // 64 x 64, 64 KiB
using SmallTiles = TileShape<1, 1, 1, 2, 8>;   // 16 x 32, 48 KiB: all memory, no arithmetic

// 16 bytes on their way from memory, where nothing lies beyond the operands, to shared memory.
struct Transfer {
  int64_t from;
  int to;
  bool exists;
};

// The operands: activations [rows, stride], of which stride is a multiple of kChunk, and the panels
// of a packed weight, `quads` quads deep.
struct ProductOperands {
  const int8_t* activations;
  int64_t rows;
  int64_t stride;
  const int8_t* weight;
  int64_t panels;
  int64_t quads;
};

// Chunk `index` of a tile of activations whose first row and input are given. The chunks of a row
// change places by the row, so that eight rows of a column of them lie in different banks.
TORCHQUANT_HOST_DEVICE inline int activation_place(int row, int chunk) {
  return row * kDepth + (chunk ^ (row % kDepthChunks)) * kChunk;
}

TORCHQUANT_HOST_DEVICE inline Transfer activation_transfer(const ProductOperands& operands,
                                                           int64_t first_row, int64_t first_input,
                                                           int index) {
  const int row = index / kDepthChunks, chunk = index % kDepthChunks;
  const int64_t m = first_row + row, k = first_input + chunk * kChunk;
  return {m * operands.stride + k, activation_place(row, chunk),
          m < operands.rows && k < operands.stride};
}

// A row of a panel, a quad of each output, is four chunks; they change places by the quad, so that
// four rows of half the outputs lie in different banks.
TORCHQUANT_HOST_DEVICE inline int weight_place(int panel, int quad, int output) {
  const int chunk = (output / 4) ^ (quad & 2);
  return panel * kPanelTile + quad * static_cast<int>(kPanelRow) + chunk * kChunk +
         output % 4 * static_cast<int>(kQuad);
}

TORCHQUANT_HOST_DEVICE inline Transfer weight_transfer(const ProductOperands& operands,
                                                       int64_t first_panel, int64_t first_quad,
                                                       int index) {
  constexpr int kChunksOfRow = static_cast<int>(kPanelRow) / kChunk;
  const int chunk = index % kChunksOfRow, row = index / kChunksOfRow;
  const int quad = row % kDepthQuads, panel = row / kDepthQuads;
  const int64_t p = first_panel + panel, q = first_quad + quad;
  return {(p * operands.quads + q) * kPanelRow + chunk * kChunk,
          weight_place(panel, quad, chunk * 4), p < operands.panels && q < operands.quads};
}

// Where lane l reads the row of an 8 x 16 byte matrix that ldmatrix.x4 gives out: the four are rows
// 0 to 7 and 8 to 15 of the first 16 inputs of a step, then of the other 16.
TORCHQUANT_HOST_DEVICE inline int activation_address(int row_tile, int step, int lane) {
  const int row = row_tile * kRowTile + lane % kRowTile;
  return activation_place(row, step * 2 + lane / kRowTile);
}

// Where a lane reads the quads of outputs 2 * g and 2 * g + 1; those of t + 4 lie four rows on.
TORCHQUANT_HOST_DEVICE inline int weight_address(int panel, int step, int half, int lane) {
  const int quad = step * kStepQuads + half * 4 + lane % 4;
  return weight_place(panel, quad, lane / 4 * 2);
}

// Where a lane keeps its four sums, of neighbouring outputs from 4 * t on, that it has of a panel
// in row g, or with `half` 1 in row g + 8.
template <class Shape>
TORCHQUANT_HOST_DEVICE inline int sums_place(int row_tile, int panel, int half, int lane) {
  const int row = row_tile * kRowTile + half * 8 + lane / 4;
  return row * Shape::kSumsStride + panel * static_cast<int>(kPanel) + lane % 4 * 4;
}

TORCHQUANT_HOST_DEVICE inline Vector<int32_t, 4> sums_of_lane(const int32_t (&even)[4],
                                                              const int32_t (&odd)[4], int half) {
  return {{even[2 * half], odd[2 * half], even[2 * half + 1], odd[2 * half + 1]}};
}

}  // namespace
}  // namespace torchquant::kernels::cuda
