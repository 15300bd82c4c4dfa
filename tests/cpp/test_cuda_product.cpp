// The product on the tensor cores, with its instructions and the threads of a block played on the
// host: what every lane is given by the indices that the kernel goes by, put together as the
// instructions do it.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "kernels/cuda/product.h"

namespace torchquant::kernels::cuda {
namespace {

using Bytes = std::vector<int8_t>;

struct Problem {
  int64_t rows;
  int64_t inputs;
  int64_t outputs;
};

Bytes random_bytes(int64_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_int_distribution<int> byte(-128, 127);
  Bytes bytes(count);
  for (auto& value : bytes) value = static_cast<int8_t>(byte(generator));
  return bytes;
}

// A product with activations whose rows have something behind their inputs, too.
class Operands {
 public:
  explicit Operands(const Problem& problem)
      : problem_(problem),
        stride_(divide_up(problem.inputs, kChunk) * kChunk),
        activations_(random_bytes(problem.rows * stride_, 1)),
        weight_(random_bytes(problem.outputs * problem.inputs, 2)),
        packed_(divide_up(problem.outputs, kPanel) * quads_of(problem.inputs) * kPanelRow) {
    for (int64_t n = 0; n < problem.outputs; ++n) {
      for (int64_t k = 0; k < problem.inputs; ++k) packed_[place(n, k)] = weight(n, k);
    }
  }

  ProductOperands of_kernel() const {
    return {activations_.data(),
            problem_.rows,
            stride_,
            packed_.data(),
            divide_up(problem_.outputs, kPanel),
            quads_of(problem_.inputs)};
  }

  int32_t sum(int64_t m, int64_t n) const {
    int32_t sum = 0;
    for (int64_t k = 0; k < problem_.inputs; ++k) {
      sum += activations_[m * stride_ + k] * weight(n, k);
    }
    return sum;
  }

 private:
  int8_t weight(int64_t n, int64_t k) const { return weight_[n * problem_.inputs + k]; }

  int64_t place(int64_t n, int64_t k) const {
    const int64_t quads = quads_of(problem_.inputs);
    return ((n / kPanel * quads + k / kQuad) * kPanel + n % kPanel) * kQuad + k % kQuad;
  }

  Problem problem_;
  int64_t stride_;
  Bytes activations_;
  Bytes weight_;
  Bytes packed_;
};

// Carries out a transfer from an operand of `size` bytes as cp.async does, and counts how often
// each byte was written.
void carry_out(const Transfer& transfer, const int8_t* from, int64_t size, char* to,
               std::vector<int>& written) {
  if (transfer.exists) {
    ASSERT_GE(transfer.from, 0);
    ASSERT_LE(transfer.from + kChunk, size);
  }
  ASSERT_EQ(transfer.to % kChunk, 0);
  ASSERT_LE(transfer.to + kChunk, static_cast<int64_t>(written.size()));
  for (int i = 0; i < kChunk; ++i) {
    to[transfer.to + i] = transfer.exists ? static_cast<char>(from[transfer.from + i]) : 0;
    ++written[transfer.to + i];
  }
}

template <class Shape>
std::vector<char> load_stage(const ProductOperands& operands, int64_t first_row,
                             int64_t first_panel, int64_t tile) {
  std::vector<char> stage(Shape::kStageBytes, 77);
  std::vector<int> rows(Shape::kActivationBytes), panels(Shape::kBlockPanels * kPanelTile);
  for (int thread = 0; thread < Shape::kThreads; ++thread) {
    const ActivationChunks<Shape> activations(operands, first_row, thread);
    for (int i = 0; i < activations.kCount; ++i) {
      carry_out(activations(i, tile * kDepth), operands.activations,
                operands.rows * operands.stride, stage.data(), rows);
    }
    const WeightChunks<Shape> weights(operands, first_panel, thread);
    for (int i = 0; i < weights.kCount; ++i) {
      carry_out(weights(i, tile * kDepthQuads), operands.weight,
                operands.panels * operands.quads * kPanelRow,
                stage.data() + Shape::kActivationBytes, panels);
    }
  }
  for (const int count : rows) EXPECT_EQ(count, 1);
  for (const int count : panels) EXPECT_EQ(count, 1);
  return stage;
}

// What ldmatrix.x4 gives lane `lane` as its register `r`: of matrix r, whose row i lies where lane
// 8 * r + i says, the four bytes that are its own.
void ldmatrix(const char* stage, int row_tile, int step, int lane, int r, int8_t* quad) {
  const int owner = 8 * r + lane / 4;
  memcpy(quad, stage + activation_address(row_tile, step, owner) + lane % 4 * 4, 4);
}

// m16n8k32 as the PTX manual lays it out.
struct Instruction {
  int8_t a[16][32];
  int8_t b[32][8];
  int32_t c[16][8];

  void set_a(int lane, int r, const int8_t* quad) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) a[g + r % 2 * 8][r / 2 * 16 + 4 * t + i] = quad[i];
  }
  void set_b(int lane, int r, const int8_t* quad) {
    for (int i = 0; i < 4; ++i) b[r * 16 + lane % 4 * 4 + i][lane / 4] = quad[i];
  }
  void run() {
    for (int m = 0; m < 16; ++m) {
      for (int n = 0; n < 8; ++n) {
        for (int k = 0; k < 32; ++k) c[m][n] += a[m][k] * b[k][n];
      }
    }
  }
  void get_c(int lane, int32_t (&sums)[4]) const {
    for (int i = 0; i < 4; ++i) sums[i] = c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
  }
};

// Adds up one row tile and panel, which takes two instructions.
void add_step(const char* stage, const char* panels, int row_tile, int panel, int step,
              Instruction (&pair)[2]) {
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 2; ++i) {
      int8_t quad[4];
      for (int r = 0; r < 4; ++r) {
        ldmatrix(stage, row_tile, step, lane, r, quad);
        pair[i].set_a(lane, r, quad);
      }
      for (int half = 0; half < 2; ++half) {
        memcpy(quad, panels + weight_address(panel, step, half, i, lane), 4);
        pair[i].set_b(lane, half, quad);
      }
    }
  }
  for (auto& instruction : pair) instruction.run();
}

template <class Shape>
void keep(const Instruction (&pair)[2], int row_tile, int panel, std::vector<int32_t>& block) {
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 4; ++i) {
      int32_t sums[4];
      pair[i / 2].get_c(lane, sums);
      const int place = sums_place<Shape>(row_tile, panel, i / 2, i % 2, lane);
      ASSERT_EQ(place % 2, 0);
      memcpy(block.data() + place, sums + i % 2 * 2, 2 * sizeof(int32_t));
    }
  }
}

// The sums of a block, [kRows][kSumsStride].
template <class Shape>
std::vector<int32_t> run_block(const ProductOperands& operands, int64_t first_row,
                               int64_t first_panel) {
  std::vector<std::vector<char>> stages;
  for (int64_t tile = 0; tile < divide_up(operands.quads, kDepthQuads); ++tile) {
    stages.push_back(load_stage<Shape>(operands, first_row, first_panel, tile));
  }
  std::vector<int32_t> block(Shape::kRows * Shape::kSumsStride, -1);
  for (int row_tile = 0; row_tile < Shape::kRows / kRowTile; ++row_tile) {
    for (int panel = 0; panel < Shape::kBlockPanels; ++panel) {
      Instruction pair[2] = {};
      for (const auto& stage : stages) {
        for (int step = 0; step < kSteps; ++step) {
          add_step(stage.data(), stage.data() + Shape::kActivationBytes, row_tile, panel, step,
                   pair);
        }
      }
      keep<Shape>(pair, row_tile, panel, block);
    }
  }
  return block;
}

template <class Shape>
void expect_product(const Problem& problem) {
  SCOPED_TRACE(testing::Message() << problem.rows << " x " << problem.inputs << " x "
                                  << problem.outputs << ", blocks of " << Shape::kRows);
  const Operands operands(problem);
  const ProductOperands given = operands.of_kernel();
  for (int64_t row = 0; row < problem.rows; row += Shape::kRows) {
    for (int64_t panel = 0; panel < given.panels; panel += Shape::kBlockPanels) {
      const auto block = run_block<Shape>(given, row, panel);
      const int64_t rows = std::min<int64_t>(Shape::kRows, problem.rows - row);
      const int64_t first = panel * kPanel;
      const int64_t columns = std::min<int64_t>(Shape::kColumns, problem.outputs - first);
      for (int64_t m = 0; m < rows; ++m) {
        for (int64_t n = 0; n < columns; ++n) {
          ASSERT_EQ(block[m * Shape::kSumsStride + n], operands.sum(row + m, first + n))
              << row + m << ", " << first + n;
        }
      }
    }
  }
}

template <class Shape>
class CudaProduct : public testing::Test {};
using Shapes =
    testing::Types<SmallestTiles, SmallTiles, MiddleTiles, LargeTiles, TileShape<4, 2, 2, 4, 3>>;
TYPED_TEST_SUITE(CudaProduct, Shapes);

TYPED_TEST(CudaProduct, IsExactForOddSizes) {
  for (const Problem& problem :
       {Problem{1, 1, 1}, Problem{3, 5, 17}, Problem{16, 16, 16}, Problem{17, 128, 33},
        Problem{70, 129, 70}, Problem{5, 260, 140}, Problem{130, 36, 131}, Problem{2, 0, 3}}) {
    expect_product<TypeParam>(problem);
  }
}

TYPED_TEST(CudaProduct, KnowsItsAddressesByConstants) {
  using Shape = TypeParam;
  for (int lane = 0; lane < kLanes; ++lane) {
    const LaneAddresses<Shape> at(1, 2, lane);
    for (int step = 0; step < kSteps; ++step) {
      for (int r = 0; r < Shape::kRowTiles; ++r) {
        EXPECT_EQ(at.activations(r, step), activation_address(1 + r, step, lane));
      }
      for (int p = 0; p < Shape::kPanels; ++p) {
        for (int i = 0; i < 4; ++i) {
          EXPECT_EQ(at.weights(p, step, i % 2, i / 2),
                    Shape::kActivationBytes + weight_address(2 + p, step, i % 2, i / 2, lane));
        }
      }
    }
  }
}

// 32 banks of four bytes: of ldmatrix, eight lanes at a time read 16 bytes each; of the weight, all
// lanes read four; of the sums, 16 lanes write eight each.
int worst_conflict(const std::vector<int>& addresses, int bytes) {
  int counts[32] = {};
  for (const int address : addresses) {
    for (int word = 0; word < bytes / 4; ++word) ++counts[(address / 4 + word) % 32];
  }
  return *std::max_element(counts, counts + 32);
}

template <class Address>
void expect_no_conflicts(int lanes, int bytes, Address address) {
  for (int first = 0; first < kLanes; first += lanes) {
    std::vector<int> addresses;
    for (int i = 0; i < lanes; ++i) addresses.push_back(address(first + i));
    EXPECT_EQ(worst_conflict(addresses, bytes), 1);
  }
}

TYPED_TEST(CudaProduct, MeetsNoConflictsOfBanks) {
  for (int step = 0; step < kSteps; ++step) {
    expect_no_conflicts(8, 16, [&](int lane) { return activation_address(1, step, lane); });
    for (int i = 0; i < 4; ++i) {
      expect_no_conflicts(32, 4,
                          [&](int lane) { return weight_address(1, step, i % 2, i / 2, lane); });
      expect_no_conflicts(
          16, 8, [&](int lane) { return 4 * sums_place<TypeParam>(0, 1, i / 2, i % 2, lane); });
    }
  }
}

}  // namespace
}  // namespace torchquant::kernels::cuda
