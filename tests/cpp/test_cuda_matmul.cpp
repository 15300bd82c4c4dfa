// What surrounds the int8 product on CUDA: operands brought into shape, sums of their rows, and
// what becomes of the product's sums, against plain loops.
#include "device_data.h"
#include "kernels/cuda/matmul.h"
#include "launched.h"

namespace torchquant::kernels::cuda {
namespace {

using Bytes = std::vector<int8_t>;

int64_t padded_16(int64_t size) { return size == 0 ? 16 : (size + 15) / 16 * 16; }

// A matrix in memory, where some layout put it.
struct Layout {
  int64_t rows;
  int64_t columns;
  int64_t row_stride;
  int64_t column_stride;

  int64_t at(int64_t r, int64_t c) const { return r * row_stride + c * column_stride; }
  int64_t extent() const { return rows == 0 || columns == 0 ? 0 : at(rows - 1, columns - 1) + 1; }
  ByteMatrix in(const void* memory) const {
    return {memory, rows, columns, row_stride, column_stride};
  }
};

// Dense, with gaps, with rows that begin at multiples of 16, turned, expanded, and with bytes
// between bytes.
std::vector<Layout> layouts(int64_t rows, int64_t columns) {
  return {{rows, columns, columns, 1},
          {rows, columns, columns + 3, 1},
          {rows, columns, padded_16(columns), 1},
          {rows, columns, 1, rows},
          {rows, columns, 1, rows + 16},
          {rows, columns, 0, 1},
          {rows, columns, 1, 0},
          {rows, columns, 2, 2 * rows + 1},
          {rows, columns, 2 * columns, 2}};
}

const int64_t kSizes[][2] = {{1, 1},   {1, 16},  {3, 5},   {4, 15},  {5, 17}, {16, 16}, {17, 32},
                             {20, 33}, {33, 48}, {40, 64}, {2, 100}, {0, 20}, {20, 0},  {0, 0}};

Bytes padded_by_hand(const Bytes& x, const Layout& layout, bool flip, int64_t rows,
                     int64_t columns) {
  Bytes padded(static_cast<size_t>(rows * columns));
  for (int64_t r = 0; r < layout.rows; ++r) {
    for (int64_t c = 0; c < layout.columns; ++c) {
      const int8_t byte = x[static_cast<size_t>(layout.at(r, c))];
      const int value = flip ? static_cast<uint8_t>(byte) - 128 : byte;
      padded[static_cast<size_t>(r * columns + c)] = static_cast<int8_t>(value);
    }
  }
  return padded;
}

void expect_padded(const Layout& layout, bool flip, int64_t offset) {
  const Bytes x = samples<int8_t>(layout.extent(), layout.rows + layout.columns);
  const Fenced memory = placed(x, offset);
  const int64_t rows = layout.rows > 16 ? layout.rows : 32, columns = padded_16(layout.columns);
  for (const int64_t wider : {columns, columns + 16}) {
    const Bytes wanted = padded_by_hand(x, layout, flip, rows, wider);
    for (const bool rows_first : {true, false}) {
      Result<int8_t> to(rows * wider);
      auto work = padding(layout.in(memory.data()), flip, rows, wider, to.data());
      work.chunks.rows_first = rows_first;
      run(work);
      ASSERT_TRUE(to.holds(wanted))
          << layout.rows << " x " << layout.columns << ", strides " << layout.row_stride << ", "
          << layout.column_stride << ", at " << offset;
    }
  }
}

TEST(CudaPadding, BringsEveryLayoutAtEveryAlignment) {
  for (const auto& [rows, columns] : kSizes) {
    for (const Layout& layout : layouts(rows, columns)) {
      for (const bool flip : {true, false}) {
        for (int64_t offset = 0; offset < kOffsets; ++offset) {
          expect_padded(layout, flip, offset);
          ASSERT_FALSE(testing::Test::HasFatalFailure());
        }
      }
    }
  }
}

TEST(CudaPadding, ReadsVectorsWhereEveryRowIsAligned) {
  const Fenced memory = placed(samples<int8_t>(4 * 48, 1), 0);
  int8_t* none = nullptr;
  const auto has_vectors = [&](const Layout& layout, int64_t offset) {
    return padding(layout.in(memory.as<int8_t>() + offset), false, 4, 48, none).has_vectors;
  };
  EXPECT_TRUE(has_vectors({4, 48, 48, 1}, 0));
  EXPECT_TRUE(has_vectors({3, 32, 48, 1}, 16));
  EXPECT_TRUE(has_vectors({4, 48, 0, 1}, 0));
  EXPECT_FALSE(has_vectors({3, 32, 48, 1}, 1));
  EXPECT_FALSE(has_vectors({3, 32, 33, 1}, 0));
  EXPECT_FALSE(has_vectors({4, 47, 48, 1}, 0));
  EXPECT_FALSE(has_vectors({4, 16, 16, 2}, 0));
}

// A slice of no columns lies among bytes that are none of its.
TEST(CudaPadding, ReadsNothingOfNoColumns) {
  const Bytes x(64, 55);
  for (const bool flip : {true, false}) {
    Result<int8_t> to(4 * 16);
    const Fenced memory = placed(x, 0);
    run(padding({memory.data(), 4, 0, 16, 1}, flip, 4, 16, to.data()));
    ASSERT_TRUE(to.holds(Bytes(64)));
  }
}

TEST(CudaPadding, CountsChunksBeyond32Bits) {
  constexpr int64_t kRows = int64_t{1} << 20, kColumns = int64_t{1} << 18;
  for (const bool rows_first : {true, false}) {
    const Chunks chunks = {kRows, kColumns, rows_first};
    ASSERT_EQ(chunks.count(), int64_t{1} << 34);
    EXPECT_EQ(chunks.row(chunks.count() - 1), kRows - 1);
    EXPECT_EQ(chunks.column(chunks.count() - 1), kColumns - kChunk);
  }
}

// Packed weights.

Bytes packed_on_the_cpu(const Bytes& weight, const Layout& layout) {
  const int64_t quads = quads_of(layout.columns);
  const int64_t panels = (layout.rows + kPanel - 1) / kPanel;
  Bytes packed(static_cast<size_t>(panels * quads * kPanelRow), 99);
  for (int64_t panel = 0; panel < panels; ++panel) {
    const int64_t first = panel * kPanel;
    pack_scalar.pack(weight.data() + first * layout.row_stride, layout.row_stride,
                     layout.column_stride, std::min(kPanel, layout.rows - first), layout.columns, 0,
                     packed.data() + panel * quads * kPanelRow);
  }
  return packed;
}

template <class Check>
void for_each_weight(Check check) {
  for (const int64_t rows : {0, 1, 2, 15, 16, 17, 33, 50}) {
    for (const int64_t columns : {1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 32, 63, 65}) {
      check(rows, columns);
    }
  }
}

TEST(CudaPacking, PacksEveryLayoutAsTheScalarKernelDoes) {
  for_each_weight([](int64_t rows, int64_t columns) {
    for (const Layout& layout : layouts(rows, columns)) {
      const Bytes weight = samples<int8_t>(layout.extent(), rows * 70 + columns);
      const Fenced memory = placed(weight, rows % kOffsets);
      const Bytes wanted = packed_on_the_cpu(weight, layout);
      Result<int8_t> packed(static_cast<int64_t>(wanted.size()), 4 * (rows % 4));
      run(PackQuads{layout.in(memory.data()), packed.data()});
      ASSERT_TRUE(packed.holds(wanted)) << rows << " x " << columns << ", strides "
                                        << layout.row_stride << ", " << layout.column_stride;
    }
  });
}

TEST(CudaPacking, UnpacksWhatTheScalarKernelPacked) {
  for_each_weight([](int64_t rows, int64_t columns) {
    const Layout layout = {rows, columns, columns, 1};
    const Bytes weight = samples<int8_t>(rows * columns, rows * 70 + columns);
    const Fenced packed = placed(packed_on_the_cpu(weight, layout), 4 * (rows % 4));
    Result<int8_t> unpacked(rows * columns, columns % 5);
    run(UnpackQuads{packed.as<int8_t>(), rows, columns, unpacked.data()});
    ASSERT_TRUE(unpacked.holds(weight)) << rows << " x " << columns;
  });
}

TEST(CudaPacking, UnpacksIntoAnOperandOfTheProduct) {
  for_each_weight([](int64_t rows, int64_t columns) {
    const Layout layout = {rows, columns, columns, 1};
    const Bytes weight = samples<int8_t>(rows * columns, rows * 70 + columns);
    const Fenced packed = placed(packed_on_the_cpu(weight, layout), 4 * (rows % 4));
    const int64_t to_rows = padded_16(rows), to_columns = padded_16(columns);
    for (const bool rows_first : {true, false}) {
      Result<int8_t> operand(to_rows * to_columns);
      run(UnpackWeight{
          packed.as<int8_t>(), rows, columns, {to_rows, to_columns, rows_first}, operand.data()});
      ASSERT_TRUE(operand.holds(padded_by_hand(weight, layout, false, to_rows, to_columns)))
          << rows << " x " << columns;
    }
  });
}

TEST(CudaPacking, UnpacksZerosOfNoColumns) {
  Result<int8_t> operand(16 * 16);
  run(UnpackWeight{nullptr, 5, 0, {16, 16, true}, operand.data()});
  ASSERT_TRUE(operand.holds(Bytes(16 * 16)));
}

TEST(CudaPacking, FindsQuadsBeyond32Bits) {
  constexpr int64_t kRows = int64_t{1} << 20, kColumns = int64_t{1} << 18;
  EXPECT_EQ(quad_at(kRows - 1, kColumns - 1, kColumns / kQuad), kRows * kColumns - kQuad);
}

// Sums.

template <int kLanes>
testing::AssertionResult sums_rows(const Bytes& x, int64_t rows, int64_t columns, int64_t offset) {
  const Fenced matrix = placed(x, offset);
  Result<int32_t> sums(rows);
  run_teams<kLanes>(RowSums{matrix.as<int8_t>(), rows, columns}, KeepSum{sums.data()});
  std::vector<int32_t> wanted(static_cast<size_t>(rows));
  for (int64_t i = 0; i < rows * columns; ++i) wanted[i / columns] += x[static_cast<size_t>(i)];
  return sums.holds(wanted);
}

TEST(CudaRowSums, AddUpEveryRow) {
  for (const int64_t rows : {0, 1, 2, 9}) {
    for (const int64_t columns : {0, 1, 5, 15, 16, 17, 32, 48, 100, 512, 1040}) {
      for (int64_t offset = 0; offset < kOffsets; ++offset) {
        const Bytes x = samples<int8_t>(rows * columns, columns + offset);
        ASSERT_TRUE(sums_rows<1>(x, rows, columns, offset)) << columns << " at " << offset;
        ASSERT_TRUE(sums_rows<32>(x, rows, columns, offset)) << columns << " at " << offset;
        ASSERT_TRUE(sums_rows<256>(x, rows, columns, offset)) << columns << " at " << offset;
      }
    }
  }
}

TEST(CudaRowSums, AddUpTheExtremes) {
  const int64_t deepest = 131071;
  ASSERT_TRUE(sums_rows<256>(Bytes(deepest, -128), 1, deepest, 1));
  ASSERT_TRUE(sums_rows<32>(Bytes(deepest, 127), 1, deepest, 0));
}

// What becomes of sums: which terms there are.
struct Terms {
  bool weight_sum;
  bool row_zero_point;
  bool row_sum;
  bool bias;
  bool relu;
  bool one_row;  // parameters of one row for all
};

Terms terms_of(int bits) {
  return {(bits & 1) != 0, (bits & 2) != 0,  (bits & 4) != 0,
          (bits & 8) != 0, (bits & 16) != 0, (bits & 32) != 0};
}
constexpr int kTerms = 64;

// The terms themselves, among them those that wrap around and every kind of float.
struct Operands {
  Operands(int64_t rows, int64_t columns, int64_t seed)
      : row_zero_point(samples<int32_t>(rows, seed)),
        row_sum(samples<int32_t>(rows, seed + 1)),
        weight_sum(samples<int32_t>(columns, seed + 2)),
        row_scale(scales(rows, seed + 3)),
        weight_scale(scales(columns, seed + 4)),
        bias(scales(columns, seed + 5)),
        output_scale(Params(1, seed).scale),
        output_zero_point(Params(1, seed).zero_point) {}

  // Mostly so small that float32, and often float16, holds the result.
  static std::vector<float> scales(int64_t n, int64_t seed) {
    std::vector<float> values = samples<float>(n, seed);
    for (size_t i = 0; i < values.size(); ++i) {
      if (i % 3 != 0) values[i] = 1e-5f * static_cast<float>(i % 7 + 1) * (i % 2 == 0 ? 1 : -1);
    }
    return values;
  }

  SumsEpilogue epilogue(const Terms& terms) const {
    SumsEpilogue e = {};
    e.row_zero_point = terms.row_zero_point ? row_zero_point.data() : nullptr;
    e.row_scale = row_scale.data();
    e.row_step = terms.one_row ? 0 : 1;
    e.shift = 128;
    e.weight_sum = terms.weight_sum ? weight_sum.data() : nullptr;
    e.row_sum = terms.row_sum ? row_sum.data() : nullptr;
    e.row_factor = 128;
    e.constant = 128 * 128 * 45;
    e.weight_scale = weight_scale.data();
    e.bias = terms.bias ? bias.data() : nullptr;
    e.relu = terms.relu;
    e.output_scale = output_scale.data();
    e.output_zero_point = output_zero_point.data();
    return e;
  }

  std::vector<int32_t> row_zero_point, row_sum, weight_sum;
  std::vector<float> row_scale, weight_scale, bias;
  std::vector<float> output_scale;
  std::vector<int32_t> output_zero_point;
};

// s, modulo 2^32: the remainder of an exact sum of parts that are reduced one by one.
int32_t whole_sum(const Operands& o, const Terms& terms, int32_t sum, int64_t m, int64_t n) {
  constexpr int64_t kModulus = int64_t{1} << 32;
  const int64_t row = terms.one_row ? 0 : m;
  int64_t total = sum + int64_t{128 * 128 * 45};
  if (terms.weight_sum) {
    const int64_t zero_point = terms.row_zero_point ? o.row_zero_point[row] : 0;
    const int64_t less = (zero_point - 128) % kModulus;
    total -= static_cast<int64_t>(static_cast<__int128>(less) * o.weight_sum[n] % kModulus);
  }
  if (terms.row_sum) total += int64_t{128} * o.row_sum[m];
  return static_cast<int32_t>(static_cast<uint32_t>(total));
}

float real_sum(const Operands& o, const Terms& terms, int32_t whole, int64_t m, int64_t n) {
  const float of_row = static_cast<float>(whole) * o.row_scale[terms.one_row ? 0 : m];
  float y = of_row * o.weight_scale[n];
  if (terms.bias) y = y + o.bias[n];
  return terms.relu && y < 0 ? 0.0f : y;
}

template <class Out>
Out finished_by_hand(const Operands& o, const Terms& terms, int32_t sum, int64_t m, int64_t n) {
  const int32_t whole = whole_sum(o, terms, sum, m, n);
  if constexpr (std::is_same_v<Out, int32_t>) {
    return whole;
  } else if constexpr (std::is_integral_v<Out>) {
    const CodeRange codes = codes_of<Out>();
    return static_cast<Out>(quantize_value(real_sum(o, terms, whole, m, n),
                                           1.0f / o.output_scale[0], o.output_zero_point[0],
                                           codes.min, codes.max));
  } else {
    return from_float<Out>(real_sum(o, terms, whole, m, n));
  }
}

// Which NaN a sum of two is depends on their order.
template <class Out>
bool is_same_output(const Out& a, const Out& b) {
  if constexpr (!std::is_integral_v<Out>) {
    if (std::isnan(to_float(a))) return std::isnan(to_float(b));
  }
  return memcmp(&a, &b, sizeof(Out)) == 0;
}

struct Sums {
  int64_t rows;
  int64_t columns;
  int64_t stride;
  int64_t offset;
  int64_t out_offset;
};

template <class Out>
testing::AssertionResult finishes_as_defined(const Sums& s, const Terms& terms, int64_t seed) {
  const Operands operands(s.rows, s.columns, seed);
  const auto sums = samples<int32_t>(s.rows == 0 ? 0 : (s.rows - 1) * s.stride + s.columns, seed);
  const Fenced memory = placed(sums, s.offset);
  Result<Out> out(s.rows * s.columns, s.out_offset);
  run(finishing(memory.as<int32_t>(), s.stride, s.rows, s.columns, operands.epilogue(terms),
                out.data()));
  std::vector<Out> wanted;
  for (int64_t m = 0; m < s.rows; ++m) {
    for (int64_t n = 0; n < s.columns; ++n) {
      const int32_t sum = sums[static_cast<size_t>(m * s.stride + n)];
      wanted.push_back(finished_by_hand<Out>(operands, terms, sum, m, n));
    }
  }
  return out.holds(wanted, is_same_output<Out>);
}

template <class Visit>
void for_each_output(Visit visit) {
  for_each_float(visit);
  visit(int8_t());
  visit(uint8_t());
  visit(int32_t());
}

TEST(CudaFinish, FinishesEveryOutputWithEveryTerm) {
  for_each_output([](auto value) {
    for (int terms = 0; terms < kTerms; ++terms) {
      for (const int64_t columns : {7, 8, 32}) {
        for (int64_t seed = 0; seed < 10; ++seed) {
          const Sums sums = {5, columns, columns + 8, 0, 0};
          ASSERT_TRUE(finishes_as_defined<decltype(value)>(sums, terms_of(terms), seed + terms))
              << columns << " columns, terms " << terms;
        }
      }
    }
  });
}

TEST(CudaFinish, FinishesEveryShapeAtEveryAlignment) {
  for_each_output([](auto value) {
    for (const int64_t columns : {0, 1, 2, 3, 4, 5, 8, 15, 16, 17, 33}) {
      for (const int64_t stride : {columns, columns + 1, columns + 4, padded_16(columns)}) {
        for (int64_t out_offset = 0; out_offset < kOffsets; ++out_offset) {
          for (const int64_t offset : {int64_t{0}, int64_t{1}, out_offset}) {
            for (const int64_t rows : {0, 1, 4}) {
              const Sums sums = {rows, columns, stride, offset, out_offset};
              ASSERT_TRUE(finishes_as_defined<decltype(value)>(sums, terms_of(31), columns))
                  << rows << " x " << columns << " every " << stride << " at " << offset << ", "
                  << out_offset;
            }
          }
        }
      }
    }
  });
}

// One float for one sum.
float finish_one(int32_t sum, float scale, float bias, bool relu) {
  const float one = 1;
  SumsEpilogue e = {};
  e.row_scale = &scale;
  e.weight_scale = &one;
  e.bias = &bias;
  e.relu = relu;
  float y = 0;
  run(finishing(&sum, 1, 1, 1, e, &y));
  return y;
}

TEST(CudaFinish, ReluKeepsNanAndNegativeZero) {
  EXPECT_TRUE(std::isnan(finish_one(1, NAN, 0, true)));
  EXPECT_TRUE(std::isnan(finish_one(0, INFINITY, 0, true)));
  EXPECT_EQ(bits_of(finish_one(0, -1, -0.0f, true)), bits_of(-0.0f));
  EXPECT_EQ(bits_of(finish_one(-1, 1, 0, true)), bits_of(0.0f));
  EXPECT_EQ(finish_one(-1, 1, 0, false), -1);
  EXPECT_EQ(finish_one(-3, 1, 4, true), 1);
}

}  // namespace
}  // namespace torchquant::kernels::cuda
