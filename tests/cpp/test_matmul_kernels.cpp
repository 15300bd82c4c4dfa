// Packing and the matmul kernels, against plain loops over int64.
#include "kernel_sets.h"

namespace torchquant::kernels {
namespace {

using EverySetMatmul = EverySet;
INSTANTIATE_TEST_SUITE_P(Sets, EverySetMatmul, testing::ValuesIn(all_sets()), name_of);

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Packed {
  std::vector<int8_t> panels;
  std::vector<int32_t> sums;  // kPanel for each panel
};

Packed pack(const Kernels& set, const std::vector<int8_t>& weight, int64_t columns, int64_t k) {
  const int64_t panels = divide_up(columns, kPanel), quads = divide_up(k, kQuad);
  const int64_t size = quads * kQuad * kPanel;
  Packed packed = {std::vector<int8_t>(panels * size), std::vector<int32_t>(panels * kPanel)};
  for (int64_t panel = 0; panel < panels; ++panel) {
    const int64_t first = panel * kPanel;
    int8_t* to = packed.panels.data() + panel * size;
    set.pack.pack(weight.data() + first * k, k, 1, std::min(kPanel, columns - first), k, 0, to);
    set.pack.sum(to, quads, packed.sums.data() + first);
  }
  return packed;
}

std::vector<int8_t> signed_bytes(int64_t count, uint32_t seed) {
  const auto bytes = random_bytes(count, seed);
  return {bytes.begin(), bytes.end()};
}

int64_t row_bytes(const Kernels& set, int64_t k) {
  return divide_up(k, kQuad) * kQuad * set.matmul.activation_bytes;
}

// rows x k activations in the layout of the set, behind one byte, so that nothing is aligned.
std::vector<uint8_t> prepare(const Kernels& set, const std::vector<uint8_t>& a, bool is_signed,
                             int64_t rows, int64_t k) {
  std::vector<uint8_t> prepared(1 + rows * row_bytes(set, k));
  for (int64_t m = 0; m < rows; ++m) {
    set.matmul.prepare_row(a.data() + m * k, is_signed, k,
                           prepared.data() + 1 + m * row_bytes(set, k));
  }
  return prepared;
}

int64_t value_of(uint8_t byte, bool is_signed) {
  return is_signed ? static_cast<int8_t>(byte) : byte;
}

// [rows, k] by `columns` rows of k, each a sum of int64.
std::vector<int32_t> exact_product(const std::vector<uint8_t>& a, bool a_signed,
                                   const std::vector<uint8_t>& weight, bool weight_signed,
                                   int64_t rows, int64_t k, int64_t columns) {
  std::vector<int32_t> product;
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t n = 0; n < columns; ++n) {
      int64_t sum = 0;
      for (int64_t i = 0; i < k; ++i) {
        sum += value_of(a[m * k + i], a_signed) * value_of(weight[n * k + i], weight_signed);
      }
      product.push_back(static_cast<int32_t>(sum));
    }
  }
  return product;
}

std::vector<int32_t> integers(const Guarded& out) {
  const auto bytes = out.content();
  std::vector<int32_t> values(bytes.size() / sizeof(int32_t));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

void expect_exact_product(const Kernels& set, int64_t rows, int64_t k, int64_t columns,
                          bool is_signed, const std::vector<uint8_t>& a,
                          const std::vector<int8_t>& weight) {
  const Packed packed = pack(set, weight, columns, k);
  const auto prepared = prepare(set, a, is_signed, rows, k);
  const int32_t zero_point = is_signed ? set.matmul.signed_offset : 0;
  Guarded out(rows * columns * sizeof(int32_t));
  Epilogue epilogue = {};
  epilogue.row_zero_point = &zero_point;
  epilogue.weight_sum = packed.sums.data();
  set.matmul.multiply({prepared.data() + 1, row_bytes(set, k), is_signed, rows, divide_up(k, kQuad),
                       packed.panels.data(), 0, divide_up(columns, kPanel), columns, epilogue,
                       out.data(), columns});
  ASSERT_TRUE(out.intact());
  const std::vector<uint8_t> unsigned_weight(weight.begin(), weight.end());
  ASSERT_EQ(integers(out), exact_product(a, is_signed, unsigned_weight, true, rows, k, columns))
      << rows << " x " << k << " x " << columns;
}

TEST_P(EverySetMatmul, IsExactForEveryDepth) {
  for (int64_t k = 0; k <= kLongest; ++k) {
    for (const bool is_signed : {true, false}) {
      const auto seed = static_cast<uint32_t>(k);
      expect_exact_product(set(), 7, k, 33, is_signed, random_bytes(7 * k, seed),
                           signed_bytes(33 * k, seed + 1));
    }
  }
}

TEST_P(EverySetMatmul, IsExactForEveryNumberOfRowsAndColumns) {
  for (int64_t rows = 1; rows <= 20; ++rows) {
    for (const int64_t columns : {1, 7, 8, 15, 16, 17, 31, 47, 48, 49, 63, 64, 65, 100}) {
      expect_exact_product(set(), rows, 19, columns, true, random_bytes(rows * 19, 1),
                           signed_bytes(columns * 19, 2));
    }
  }
}

// Many rows, and depths of several blocks.
TEST_P(EverySetMatmul, IsExactForLargeProducts) {
  const int64_t sizes[][3] = {{25, 256, 17},  {24, 1029, 16}, {31, 2051, 33},
                              {193, 257, 15}, {400, 260, 20}, {47, 65793, 3}};
  for (const auto& [rows, k, columns] : sizes) {
    for (const bool is_signed : {true, false}) {
      expect_exact_product(set(), rows, k, columns, is_signed, random_bytes(rows * k, 1),
                           signed_bytes(columns * k, 2));
    }
  }
}

// 255 * 127 + 255 * 127 does not fit int16: an instruction that saturates there is found out.
TEST_P(EverySetMatmul, IsExactForTheExtremes) {
  for (const auto& [rows, k] : {std::pair{2, 2}, {2, 64}, {2, 65793}, {24, 256}, {24, 65793}}) {
    for (const int8_t w : {INT8_C(127), INT8_C(-128)}) {
      for (const uint8_t a : {UINT8_C(255), UINT8_C(128), UINT8_C(127)}) {
        for (const bool is_signed : {true, false}) {
          expect_exact_product(set(), rows, k, 3, is_signed, std::vector<uint8_t>(rows * k, a),
                               std::vector<int8_t>(3 * k, w));
        }
      }
    }
  }
}

// Rows and columns that lie apart, as those of larger matrices do.
void expect_exact_unpacked(const Kernels& set, int64_t rows, int64_t k, int64_t columns,
                           bool a_signed, bool weight_signed, const std::vector<uint8_t>& a,
                           const std::vector<uint8_t>& weight) {
  constexpr int64_t kApart = 3;
  const auto apart = [k](const std::vector<uint8_t>& dense, int64_t count) {
    std::vector<uint8_t> spread(count * (k + kApart), 0x5a);
    for (int64_t i = 0; i < count; ++i) {
      std::copy_n(dense.begin() + i * k, k, spread.begin() + i * (k + kApart));
    }
    return spread;
  };
  const auto left = apart(a, rows), right = apart(weight, columns);
  const int64_t out_stride = columns + kApart;
  std::vector<int32_t> out(rows * out_stride, -1);
  set.matmul.multiply_unpacked({left.data(), k + kApart, a_signed, rows, k, right.data(),
                                k + kApart, weight_signed, columns, out.data(), out_stride});
  const auto product = exact_product(a, a_signed, weight, weight_signed, rows, k, columns);
  for (int64_t i = 0; i < rows * out_stride; ++i) {
    const int64_t m = i / out_stride, n = i % out_stride;
    ASSERT_EQ(out[i], n < columns ? product[m * columns + n] : -1) << m << ", " << n;
  }
}

TEST_P(EverySetMatmul, MultipliesUnpackedWeightsExactly) {
  const MatmulKernels& kernel = set().matmul;
  EXPECT_EQ(kernel.unpacked_rows == 0, kernel.multiply_unpacked == nullptr);
  for (int64_t rows = 1; rows <= kernel.unpacked_rows; ++rows) {
    for (const int64_t columns : {1, 3, 4, 9}) {
      for (int64_t k = 0; k <= kLongest; ++k) {
        const auto a = random_bytes(rows * k, static_cast<uint32_t>(k));
        const auto weight = random_bytes(columns * k, static_cast<uint32_t>(k + 1));
        for (const bool a_signed : {true, false}) {
          for (const bool weight_signed : {true, false}) {
            expect_exact_unpacked(set(), rows, k, columns, a_signed, weight_signed, a, weight);
          }
        }
      }
    }
  }
}

TEST_P(EverySetMatmul, MultipliesUnpackedExtremesExactly) {
  for (int64_t rows = 1; rows <= set().matmul.unpacked_rows; ++rows) {
    for (const uint8_t x : {UINT8_C(0), UINT8_C(127), UINT8_C(128), UINT8_C(255)}) {
      for (const uint8_t y : {UINT8_C(127), UINT8_C(128), UINT8_C(255)}) {
        for (const bool a_signed : {true, false}) {
          for (const bool weight_signed : {true, false}) {
            const int64_t k = 33025;  // the deepest that all four allow
            expect_exact_unpacked(set(), rows, k, 5, a_signed, weight_signed,
                                  std::vector<uint8_t>(rows * k, x),
                                  std::vector<uint8_t>(5 * k, y));
          }
        }
      }
    }
  }
}

// What a layer does to sums: a prepared product of 7 rows with every kind of scale and bias.
struct LinearCase {
  Output type;
  bool has_bias;
  bool relu;
  bool one_zero_point;
};

int64_t size_of(Output type) {
  if (type == Output::i32 || type == Output::f32) return 4;
  return type == Output::i8 || type == Output::u8 ? 1 : 2;
}

struct Sizes {
  int64_t rows;
  int64_t depth;
  int64_t columns;
};

// Some panels of the product, in an output that is otherwise left alone.
std::vector<uint8_t> linear(const Kernels& set, const LinearCase& c, const Sizes& sizes,
                            int64_t first_panel, int64_t last_panel) {
  const auto [rows, depth, columns] = sizes;
  const Packed packed = pack(set, signed_bytes(columns * depth, 3), columns, depth);
  const auto prepared = prepare(set, random_bytes(rows * depth, 4), false, rows, depth);
  std::vector<int32_t> zero_point(rows), offset(rows);
  std::vector<float> scale(rows), weight_scale(columns), bias(columns);
  for (int64_t m = 0; m < rows; ++m) {
    zero_point[m] = static_cast<int32_t>(m * 41 % 256);
    offset[m] = static_cast<int32_t>(m * 1000 - 2500);
    scale[m] = m == 3 ? NAN : 0.013f * static_cast<float>(m + 1);
  }
  for (int64_t n = 0; n < columns; ++n) {
    weight_scale[n] = 0.0021f * static_cast<float>(n % 13 - 2);
    bias[n] = n % 9 == 0 ? -0.0f : 1.7f * static_cast<float>(n % 7 - 3);
  }
  Epilogue e = {};
  e.row_zero_point = zero_point.data();
  e.row_scale = scale.data();
  e.row_step = c.one_zero_point ? 0 : 1;
  e.row_offset = c.one_zero_point ? offset.data() : nullptr;
  e.weight_sum = packed.sums.data();
  e.weight_scale = weight_scale.data();
  e.bias = c.has_bias ? bias.data() : nullptr;
  e.relu = c.relu;
  e.type = c.type;
  const bool to_signed = c.type == Output::i8;
  e.requantize = {3.7f, to_signed ? -5 : 120, to_signed ? -128 : 0, to_signed ? 127 : 255};
  Guarded out(rows * columns * size_of(c.type));
  const int64_t quads = quads_of(depth);
  set.matmul.multiply({prepared.data() + 1, row_bytes(set, depth), false, rows, quads,
                       packed.panels.data() + first_panel * quads * kPanelRow, first_panel,
                       last_panel, columns, e, out.data(), columns});
  EXPECT_TRUE(out.intact());
  return out.content();
}

constexpr Output kOutputs[] = {Output::i32,  Output::f32, Output::f16,
                               Output::bf16, Output::i8,  Output::u8};

TEST_P(EverySetMatmul, FinishesLinearAsScalarDoes) {
  for (const Output type : kOutputs) {
    for (const bool has_bias : {false, true}) {
      for (const bool relu : {false, true}) {
        for (const bool one_zero_point : {false, true}) {
          const LinearCase c = {type, has_bias, relu, one_zero_point};
          for (const int64_t columns : {1, 15, 16, 17, 40, 64, 65}) {
            const int64_t panels = divide_up(columns, kPanel);
            for (const auto& [rows, depth] : {std::pair{7, 45}, {26, 260}}) {
              const Sizes sizes = {rows, depth, columns};
              ASSERT_EQ(linear(set(), c, sizes, 0, panels), linear(scalar(), c, sizes, 0, panels));
            }
          }
        }
      }
    }
  }
}

TEST_P(EverySetMatmul, FinishesAPartOfTheWeightAsScalarDoes) {
  for (const Output type : kOutputs) {
    const LinearCase c = {type, true, true, false};
    for (const auto& [first, last] : {std::pair{2, 6}, {1, 2}, {6, 7}}) {
      for (const auto& [rows, depth] : {std::pair{5, 24}, {25, 256}}) {
        const Sizes sizes = {rows, depth, 100};
        ASSERT_EQ(linear(set(), c, sizes, first, last), linear(scalar(), c, sizes, first, last));
      }
    }
  }
}

// Rows in the layout of the set are compared by their products with a diagonal of ones, which meets
// the padding too and finds zeros there.
std::vector<int32_t> codes_of(const Kernels& set, const std::vector<uint8_t>& prepared, int64_t k) {
  const int64_t padded = quads_of(k) * kQuad;
  std::vector<int8_t> diagonal(padded * padded);
  for (int64_t i = 0; i < padded; ++i) diagonal[i * padded + i] = 1;
  const Packed packed = pack(set, diagonal, padded, padded);
  std::vector<int32_t> codes(padded);
  set.matmul.multiply({prepared.data() + 1, row_bytes(set, k), false, 1, quads_of(k),
                       packed.panels.data(), 0, divide_up(padded, kPanel), padded, Epilogue{},
                       codes.data(), padded});
  return codes;
}

std::vector<int32_t> padded_codes(const std::vector<uint8_t>& codes) {
  std::vector<int32_t> padded(codes.begin(), codes.end());
  padded.resize(static_cast<size_t>(quads_of(static_cast<int64_t>(codes.size())) * kQuad));
  return padded;
}

std::vector<uint8_t> row_codes(const Fenced& x, Float type, int64_t k, const QParams& row) {
  std::vector<uint8_t> codes(k);
  scalar().quantize.runs(x.data(), type, codes.data(), Int::u8, 1, k,
                         {&row.scale, &row.zero_point, 0, 255});
  return codes;
}

TEST_P(EverySetMatmul, QuantizesRowsAsTheContractSays) {
  const QParams row = {2.7f, 77};
  for (const Float type : kFloats) {
    for (int64_t k = 0; k <= kLongest; ++k) {
      const Fenced x = floats(type, k, k);
      const auto expected = row_codes(x, type, k, row);
      std::vector<uint8_t> prepared(1 + row_bytes(set(), k));
      set().matmul.quantize_row(x.data(), type, k, {1.0f / row.scale, row.zero_point, 0, 255},
                                prepared.data() + 1);
      ASSERT_EQ(codes_of(set(), prepared, k), padded_codes(expected));
    }
  }
}

TEST_P(EverySetMatmul, QuantizesTokensByTheirOwnRange) {
  for (const Float type : kFloats) {
    for (const bool finite : {true, false}) {
      for (int64_t k = 0; k <= kLongest; ++k) {
        const Fenced x = floats(type, k, k, finite);
        const QParams wanted = affine_qparams(scalar().range.span(x.data(), type, k), 0, 255);
        const auto expected = row_codes(x, type, k, wanted);
        std::vector<uint8_t> prepared(1 + row_bytes(set(), k));
        const QParams chosen = set().matmul.quantize_token(x.data(), type, k, prepared.data() + 1);
        ASSERT_EQ(bits_of(chosen.scale), bits_of(wanted.scale));
        ASSERT_EQ(chosen.zero_point, wanted.zero_point);
        ASSERT_EQ(codes_of(set(), prepared, k), padded_codes(expected));
      }
    }
  }
}

// Along the depth, across it, and with bytes between the bytes.
TEST_P(EverySetMatmul, PacksEveryLayoutAsScalarDoes) {
  for (const int64_t columns : {1, 7, 15, 16, 17, 50, 64}) {
    for (int64_t k = 0; k <= kLongest + 20; ++k) {
      const auto bytes = signed_bytes(3 * (k + 5) * (columns + 5), 9);
      const int64_t layouts[][2] = {{k + 3, 1}, {1, columns + 2}, {2, 2 * columns + 1}};
      for (const auto [column_stride, k_stride] : layouts) {
        const int64_t extent = k == 0 ? 0 : (columns - 1) * column_stride + (k - 1) * k_stride + 1;
        const Fenced weight(std::vector<int8_t>(bytes.begin(), bytes.begin() + extent));
        for (const uint8_t flip : {UINT8_C(0), UINT8_C(128)}) {
          const int64_t size = divide_up(k, kQuad) * kQuad * divide_up(columns, kPanel) * kPanel;
          Guarded ours(size), wanted(size);
          set().pack.pack(weight.as<int8_t>(), column_stride, k_stride, columns, k, flip,
                          static_cast<int8_t*>(ours.data()));
          scalar().pack.pack(weight.as<int8_t>(), column_stride, k_stride, columns, k, flip,
                             static_cast<int8_t*>(wanted.data()));
          ASSERT_TRUE(ours.intact());
          ASSERT_EQ(ours.content(), wanted.content()) << columns << " columns of " << k;
        }
      }
    }
  }
}

TEST_P(EverySetMatmul, SumsEveryColumnOfAPanel) {
  for (int64_t quads = 0; quads <= 40; ++quads) {
    const auto panel = signed_bytes(quads * kPanel * kQuad, static_cast<uint32_t>(quads));
    int32_t sums[kPanel];
    set().pack.sum(panel.data(), quads, sums);
    for (int64_t n = 0; n < kPanel; ++n) {
      int32_t sum = 0;
      for (int64_t i = 0; i < quads * kQuad; ++i) {
        sum += panel[(i / kQuad * kPanel + n) * kQuad + i % kQuad];
      }
      ASSERT_EQ(sums[n], sum);
    }
  }
}

TEST_P(EverySetMatmul, UnpacksWhatItPacked) {
  for (const int64_t columns : {1, 15, 16}) {
    for (int64_t k = 0; k <= 70; ++k) {
      const auto weight = signed_bytes(columns * k, 5);
      const Packed packed = pack(set(), weight, columns, k);
      std::vector<int8_t> back(columns * k);
      set().pack.unpack(packed.panels.data(), columns, k, back.data());
      ASSERT_EQ(back, weight);
    }
  }
}

}  // namespace
}  // namespace torchquant::kernels
