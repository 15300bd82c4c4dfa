// Packing, bit packing and the matmul kernels, against plain loops over int64.
#include "kernel_sets.h"

namespace torchquant::kernels {
namespace {

using EverySetMatmul = EverySet;
INSTANTIATE_TEST_SUITE_P(Sets, EverySetMatmul, testing::ValuesIn(all_sets()), name_of);

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Packed {
  std::vector<int8_t> panels;
  std::vector<int32_t> sums;
};

Packed pack(const Kernels& set, const std::vector<int8_t>& weight, int64_t columns, int64_t k) {
  const int64_t panels = divide_up(columns, kPanel), size = divide_up(k, kQuad) * kQuad * kPanel;
  Packed packed = {std::vector<int8_t>(panels * size), std::vector<int32_t>(columns)};
  for (int64_t panel = 0; panel < panels; ++panel) {
    const int64_t first = panel * kPanel;
    set.pack.pack(weight.data() + first * k, k, 1, std::min(kPanel, columns - first), k, 0,
                  packed.panels.data() + panel * size, packed.sums.data() + first);
  }
  return packed;
}

std::vector<int8_t> signed_bytes(int64_t count, uint32_t seed) {
  const auto bytes = random_bytes(count, seed);
  return {bytes.begin(), bytes.end()};
}

// rows x k activations in the layout of the set, behind one byte, so that nothing is aligned.
std::vector<uint8_t> prepare(const Kernels& set, const std::vector<uint8_t>& a, bool is_signed,
                             int64_t rows, int64_t k) {
  const int64_t row_bytes = divide_up(k, kQuad) * kQuad * set.matmul.activation_bytes;
  std::vector<uint8_t> prepared(1 + rows * row_bytes);
  for (int64_t m = 0; m < rows; ++m) {
    set.matmul.prepare_row(a.data() + m * k, is_signed, k, prepared.data() + 1 + m * row_bytes);
  }
  return prepared;
}

int64_t value_of(uint8_t byte, bool is_signed) {
  return is_signed ? static_cast<int8_t>(byte) : byte;
}

void expect_exact_product(const Kernels& set, int64_t rows, int64_t k, int64_t columns,
                          bool is_signed, const std::vector<uint8_t>& a,
                          const std::vector<int8_t>& weight) {
  const Packed packed = pack(set, weight, columns, k);
  const auto prepared = prepare(set, a, is_signed, rows, k);
  const std::vector<int32_t> zero_point(rows, is_signed ? set.matmul.signed_offset : 0);
  Guarded out(rows * columns * sizeof(int32_t));
  const Epilogue epilogue = {zero_point.data(), nullptr, packed.sums.data(), nullptr, nullptr,
                             nullptr,           false,   Output::i32};
  set.matmul.multiply({prepared.data() + 1, rows, divide_up(k, kQuad), packed.panels.data(), 0,
                       divide_up(columns, kPanel), columns, epilogue, out.data(), columns});
  ASSERT_TRUE(out.intact());
  const auto bytes = out.content();
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t n = 0; n < columns; ++n) {
      int64_t sum = 0;
      for (int64_t i = 0; i < k; ++i) {
        sum += value_of(a[m * k + i], is_signed) * weight[n * k + i];
      }
      int32_t ours;
      std::memcpy(&ours, bytes.data() + (m * columns + n) * sizeof(ours), sizeof(ours));
      ASSERT_EQ(ours, sum) << m << ", " << n << " of " << rows << " x " << k << " x " << columns;
    }
  }
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
  for (int64_t rows = 1; rows <= 14; ++rows) {
    for (const int64_t columns : {1, 7, 8, 15, 16, 17, 31, 47, 48, 49, 63, 64, 65, 100}) {
      expect_exact_product(set(), rows, 19, columns, true, random_bytes(rows * 19, 1),
                           signed_bytes(columns * 19, 2));
    }
  }
}

// 255 * 127 + 255 * 127 does not fit int16: an instruction that saturates there is found out.
TEST_P(EverySetMatmul, IsExactForTheExtremes) {
  for (const int64_t k : {2, 64, 65793}) {
    for (const int8_t w : {INT8_C(127), INT8_C(-128)}) {
      for (const uint8_t a : {UINT8_C(255), UINT8_C(128), UINT8_C(127)}) {
        for (const bool is_signed : {true, false}) {
          expect_exact_product(set(), 2, k, 17, is_signed, std::vector<uint8_t>(2 * k, a),
                               std::vector<int8_t>(17 * k, w));
        }
      }
    }
  }
}

struct LinearCase {
  Output type;
  bool has_bias;
  bool relu;
};

std::vector<uint8_t> linear(const Kernels& set, const LinearCase& c, int64_t columns) {
  constexpr int64_t kRows = 7, kDepth = 45;
  const auto weight = signed_bytes(columns * kDepth, 3);
  const Packed packed = pack(set, weight, columns, kDepth);
  const auto prepared = prepare(set, random_bytes(kRows * kDepth, 4), false, kRows, kDepth);
  std::vector<int32_t> zero_point(kRows);
  std::vector<float> scale(kRows), weight_scale(columns), bias(columns);
  for (int64_t m = 0; m < kRows; ++m) {
    zero_point[m] = static_cast<int32_t>(m * 41 % 256);
    scale[m] = m == 3 ? NAN : 0.013f * static_cast<float>(m + 1);
  }
  for (int64_t n = 0; n < columns; ++n) {
    weight_scale[n] = 0.0021f * static_cast<float>(n % 13 - 2);
    bias[n] = n % 9 == 0 ? -0.0f : 1.7f * static_cast<float>(n % 7 - 3);
  }
  const Epilogue epilogue = {zero_point.data(),
                             nullptr,
                             packed.sums.data(),
                             scale.data(),
                             weight_scale.data(),
                             c.has_bias ? bias.data() : nullptr,
                             c.relu,
                             c.type};
  Guarded out(kRows * columns * (c.type == Output::f32 ? 4 : 2));
  set.matmul.multiply({prepared.data() + 1, kRows, divide_up(kDepth, kQuad), packed.panels.data(),
                       0, divide_up(columns, kPanel), columns, epilogue, out.data(), columns});
  EXPECT_TRUE(out.intact());
  return out.content();
}

TEST_P(EverySetMatmul, FinishesLinearAsScalarDoes) {
  for (const Output type : {Output::f32, Output::f16, Output::bf16}) {
    for (const bool has_bias : {false, true}) {
      for (const bool relu : {false, true}) {
        for (const int64_t columns : {1, 15, 16, 17, 40, 64, 65}) {
          const LinearCase c = {type, has_bias, relu};
          ASSERT_EQ(linear(set(), c, columns), linear(scalar(), c, columns));
        }
      }
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

TEST_P(EverySetMatmul, PackedBitsAreDenseAndComeBack) {
  for (int bits = 2; bits <= 8; ++bits) {
    for (int64_t n = 0; n <= kLongest; ++n) {
      auto codes = random_bytes(n, static_cast<uint32_t>(n));
      for (uint8_t& code : codes) code = static_cast<uint8_t>(code & ((1 << bits) - 1));
      ASSERT_TRUE(set().bits.fit(codes.data(), false, n, bits));
      Guarded packed(divide_up(n * bits, 8));
      set().bits.pack(codes.data(), n, bits, packed.data());
      ASSERT_TRUE(packed.intact());
      const auto bytes = packed.content();
      for (int64_t bit = 0; bit < n * bits; ++bit) {
        const int ours = bytes[bit / 8] >> (bit % 8) & 1;
        ASSERT_EQ(ours, codes[bit / bits] >> (bit % bits) & 1) << "bit " << bit;
      }
      Guarded back(n);
      set().bits.unpack(packed.data(), false, n, bits, back.data());
      ASSERT_EQ(back.content(), codes);
      ASSERT_TRUE(back.intact());
    }
  }
}

TEST_P(EverySetMatmul, CodesThatDoNotFitAreFound) {
  const int8_t codes[] = {-8, 7, 8};
  EXPECT_TRUE(set().bits.fit(codes, true, 2, 4));
  EXPECT_FALSE(set().bits.fit(codes, true, 3, 4));
  EXPECT_FALSE(set().bits.fit(codes, false, 1, 4));
}

}  // namespace
}  // namespace torchquant::kernels
