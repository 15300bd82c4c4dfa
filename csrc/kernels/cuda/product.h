// Where the int8 product on the tensor cores finds its operands: a block of threads brings tiles of
// the activations and of the packed weight into shared memory, 16 bytes at a time, and its warps
// read from there what the lanes of an instruction m16n8k32 hold.
//
// That instruction has lane l = 4 * g + t hold, of 32 inputs in eight quads of four: of the
// activations quads t and t + 4 of rows g and g + 8; of the weight quads t and t + 4 of column g;
// and of the sums those of rows g and g + 8 and columns 2 * t and 2 * t + 1. Two instructions share
// a panel of 16 outputs, eight each.
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
  static constexpr int kSumsStride = kColumns + 8;  // four rows of eight sums in different banks
  static constexpr int kActivationBytes = kRows * kDepth;
  static constexpr int kStageBytes = kActivationBytes + kBlockPanels * kPanelTile;
  static_assert(kRows * kSumsStride * sizeof(int32_t) <= kStages * kStageBytes);
};

using LargeTiles = TileShape<4, 4, 2, 2, 3>;     // 128 x 128, 96 KiB
using MiddleTiles = TileShape<2, 2, 2, 2, 4>;    // 64 x 64, 64 KiB
using SmallTiles = TileShape<2, 1, 2, 2, 6>;     // 64 x 32, 72 KiB
using SmallestTiles = TileShape<1, 1, 1, 2, 8>;  // 16 x 32, 48 KiB: all memory, no arithmetic

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

// The chunks of a row of activations change places by the row, so that eight rows of a column of
// them lie in different banks.
TORCHQUANT_HOST_DEVICE inline int activation_place(int row, int chunk) {
  return row * kDepth + (chunk ^ (row % kDepthChunks)) * kChunk;
}

// The chunks that a thread brings of a tile of activations: of rows that lie so far apart that all
// are the same chunk, in the same place.
template <class Shape>
class ActivationChunks {
 public:
  static constexpr int kRowsAtOnce = Shape::kThreads / kDepthChunks;
  static constexpr int kCount = Shape::kRows / kRowsAtOnce;
  static_assert(kRowsAtOnce % kDepthChunks == 0 && Shape::kRows % kRowsAtOnce == 0);

  TORCHQUANT_HOST_DEVICE ActivationChunks(const ProductOperands& operands, int64_t first_row,
                                          int thread) {
    const int row = thread / kDepthChunks, chunk = thread % kDepthChunks;
    from_ = (first_row + row) * operands.stride + chunk * kChunk;
    step_ = kRowsAtOnce * operands.stride;
    to_ = activation_place(row, chunk);
    rows_ = static_cast<int>(smaller(operands.rows - first_row - row, Shape::kRows));
    inputs_ = operands.stride - chunk * kChunk;
  }

  // The one in row i of its rows, of the tile that begins with this input.
  TORCHQUANT_HOST_DEVICE Transfer operator()(int i, int64_t first_input) const {
    return {from_ + i * step_ + first_input, to_ + i * kRowsAtOnce * kDepth,
            i * kRowsAtOnce < rows_ && first_input < inputs_};
  }

 private:
  int64_t from_;
  int64_t step_;
  int64_t inputs_;
  int to_;
  int rows_;
};

// A row of a panel, a quad of each output, is four chunks; they change places by the quad, so that
// four rows of half the outputs lie in different banks.
TORCHQUANT_HOST_DEVICE inline int weight_place(int panel, int quad, int output) {
  const int chunk = (output / 4) ^ (quad & 2);
  return panel * kPanelTile + quad * static_cast<int>(kPanelRow) + chunk * kChunk +
         output % 4 * static_cast<int>(kQuad);
}

// The chunks that a thread brings of a tile of panels.
template <class Shape>
class WeightChunks {
 public:
  static constexpr int kChunksOfRow = static_cast<int>(kPanelRow) / kChunk;
  static constexpr int kRowsAtOnce = Shape::kThreads / kChunksOfRow;  // of kDepthQuads to a panel
  static constexpr int kQuadsAtOnce = kRowsAtOnce < kDepthQuads ? kRowsAtOnce : kDepthQuads;
  static constexpr int kPanelsAtOnce = kRowsAtOnce / kQuadsAtOnce;
  static constexpr int kOfPanel = kDepthQuads / kQuadsAtOnce;
  static constexpr int kCount = Shape::kBlockPanels * kDepthQuads / kRowsAtOnce;
  static_assert(kQuadsAtOnce % 4 == 0 && Shape::kBlockPanels % kPanelsAtOnce == 0);

  TORCHQUANT_HOST_DEVICE WeightChunks(const ProductOperands& operands, int64_t first_panel,
                                      int thread) {
    const int row = thread / kChunksOfRow, chunk = thread % kChunksOfRow;
    const int panel = row / kDepthQuads, quad = row % kDepthQuads;
    from_ = ((first_panel + panel) * operands.quads + quad) * kPanelRow + chunk * kChunk;
    step_ = kPanelsAtOnce * operands.quads * kPanelRow;
    to_ = weight_place(panel, quad, chunk * 4);
    panels_ = static_cast<int>(smaller(operands.panels - first_panel, Shape::kBlockPanels)) - panel;
    quads_ = operands.quads - quad;
  }

  // Chunk i of the tile that begins with this quad.
  TORCHQUANT_HOST_DEVICE Transfer operator()(int i, int64_t first_quad) const {
    const int panel = i / kOfPanel, quad = i % kOfPanel * kQuadsAtOnce;
    return {from_ + panel * step_ + (first_quad + quad) * kPanelRow,
            to_ + i * kRowsAtOnce * static_cast<int>(kPanelRow),
            panel * kPanelsAtOnce < panels_ && first_quad + quad < quads_};
  }

 private:
  int64_t from_;
  int64_t step_;
  int64_t quads_;
  int to_;
  int panels_;
};

// Where lane l reads the row of an 8 x 16 byte matrix that ldmatrix.x4 gives out: the four are rows
// 0 to 7 and 8 to 15 of the first 16 inputs of a step, then of the other 16.
TORCHQUANT_HOST_DEVICE inline int activation_address(int row_tile, int step, int lane) {
  const int row = row_tile * kRowTile + lane % kRowTile;
  return activation_place(row, step * 2 + lane / kRowTile);
}

// Where a lane reads quad t of output g, or with `half` 1 quad t + 4, of either instruction of a
// panel.
TORCHQUANT_HOST_DEVICE inline int weight_address(int panel, int step, int half, int instruction,
                                                 int lane) {
  const int quad = step * kStepQuads + half * 4 + lane % 4;
  return weight_place(panel, quad, instruction * 8 + lane / 4);
}

// All addresses of a lane in a stage, which differ by constants from few: of the activations those
// of the steps, of the weight those of the two instructions.
template <class Shape>
class LaneAddresses {
 public:
  TORCHQUANT_HOST_DEVICE LaneAddresses(int first_row_tile, int first_panel, int lane) {
    TORCHQUANT_UNROLL
    for (int step = 0; step < kSteps; ++step) {
      activations_[step] = activation_address(first_row_tile, step, lane);
    }
    TORCHQUANT_UNROLL
    for (int i = 0; i < 2; ++i) {
      weights_[i] = Shape::kActivationBytes + weight_address(first_panel, 0, 0, i, lane);
    }
  }

  TORCHQUANT_HOST_DEVICE int activations(int row_tile, int step) const {
    return activations_[step] + row_tile * kRowTile * kDepth;
  }
  TORCHQUANT_HOST_DEVICE int weights(int panel, int step, int half, int instruction) const {
    return weights_[instruction] + panel * kPanelTile +
           (step * kStepQuads + half * 4) * static_cast<int>(kPanelRow);
  }

 private:
  int activations_[kSteps];
  int weights_[2];
};

// Where a lane keeps its two sums of an instruction, of neighbouring outputs, that it has in row g,
// or with `half` 1 in row g + 8.
template <class Shape>
TORCHQUANT_HOST_DEVICE inline int sums_place(int row_tile, int panel, int instruction, int half,
                                             int lane) {
  const int row = row_tile * kRowTile + half * 8 + lane / 4;
  return row * Shape::kSumsStride + panel * static_cast<int>(kPanel) + instruction * 8 +
         lane % 4 * 2;
}

}  // namespace
}  // namespace torchquant::kernels::cuda
