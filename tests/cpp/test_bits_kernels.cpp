// Packing codes of a few bits and unpacking them: the definition bit by bit, and every set against
// the scalar one.
#include "kernel_sets.h"

namespace torchquant::kernels {
namespace {

using EverySetBits = EverySet;
INSTANTIATE_TEST_SUITE_P(Sets, EverySetBits, testing::ValuesIn(all_sets()), name_of);

constexpr int64_t kMostCodes = 300;

int64_t packed_size(int64_t n, int bits) { return (n * bits + 7) / 8; }

// Any code of so many bits, as a byte.
uint8_t code_of(uint8_t byte, bool is_signed, int bits) {
  const int low = byte & ((1 << bits) - 1);
  const bool is_negative = is_signed && low >> (bits - 1) != 0;
  return static_cast<uint8_t>(is_negative ? low - (1 << bits) : low);
}

std::vector<uint8_t> fitting_codes(int64_t n, bool is_signed, int bits) {
  auto codes = random_bytes(n, n + bits);
  for (uint8_t& code : codes) code = code_of(code, is_signed, bits);
  return codes;
}

TEST_P(EverySetBits, PacksAsScalarDoes) {
  for (int bits = 2; bits <= 8; ++bits) {
    for (const bool is_signed : {true, false}) {
      for (int64_t n = 0; n <= kMostCodes; ++n) {
        const Fenced codes(fitting_codes(n, is_signed, bits));
        const auto pack = [&](const Kernels& kernels, void* packed) {
          EXPECT_TRUE(kernels.bits.pack(codes.data(), is_signed, n, bits, packed));
        };
        ASSERT_TRUE(writes_as_scalar(set(), packed_size(n, bits), pack)) << n << " of " << bits;
      }
    }
  }
}

// Bytes of any value: what lies in the spare bits does not matter.
TEST_P(EverySetBits, UnpacksAsScalarDoes) {
  for (int bits = 2; bits <= 8; ++bits) {
    for (const bool is_signed : {true, false}) {
      for (int64_t n = 0; n <= kMostCodes; ++n) {
        const Fenced packed(random_bytes(packed_size(n, bits), n));
        const auto unpack = [&](const Kernels& kernels, void* codes) {
          kernels.bits.unpack(packed.data(), is_signed, n, bits, codes);
        };
        ASSERT_TRUE(writes_as_scalar(set(), n, unpack)) << n << " of " << bits;
      }
    }
  }
}

TEST_P(EverySetBits, UnpacksWhatItPacked) {
  for (int bits = 2; bits <= 8; ++bits) {
    for (const bool is_signed : {true, false}) {
      for (int64_t n = 0; n <= kMostCodes; n += 7) {
        const auto codes = fitting_codes(n, is_signed, bits);
        std::vector<uint8_t> packed(packed_size(n, bits)), back(n);
        ASSERT_TRUE(set().bits.pack(codes.data(), is_signed, n, bits, packed.data()));
        set().bits.unpack(packed.data(), is_signed, n, bits, back.data());
        ASSERT_EQ(back, codes) << bits;
      }
    }
  }
}

TEST_P(EverySetBits, FindsACodeThatDoesNotFitInEveryPosition) {
  constexpr int64_t kCodes = 140;  // whole steps and a last one for every width
  for (int bits = 2; bits < 8; ++bits) {
    for (const bool is_signed : {true, false}) {
      const int above = 1 << (is_signed ? bits - 1 : bits), below = is_signed ? -above - 1 : -1;
      auto codes = fitting_codes(kCodes, is_signed, bits);
      std::vector<uint8_t> packed(packed_size(kCodes, bits));
      for (uint8_t& code : codes) {
        const uint8_t fitting = code;
        for (const int unfit : {above, below}) {
          code = static_cast<uint8_t>(unfit);
          ASSERT_FALSE(set().bits.pack(codes.data(), is_signed, kCodes, bits, packed.data()))
              << unfit << " at " << &code - codes.data() << " in " << bits << " bits";
        }
        code = fitting;
      }
    }
  }
}

TEST_P(EverySetBits, FitsEveryCodeOfItsRangeAndNoOther) {
  for (int bits = 2; bits <= 8; ++bits) {
    for (const bool is_signed : {true, false}) {
      for (int byte = 0; byte < 256; ++byte) {
        const auto code = static_cast<uint8_t>(byte);
        uint8_t packed;
        ASSERT_EQ(set().bits.pack(&code, is_signed, 1, bits, &packed),
                  code == code_of(code, is_signed, bits))
            << byte << " in " << bits << " bits";
      }
    }
  }
}

TEST(Scalar, PackedBitsAreDense) {
  for (int bits = 2; bits <= 8; ++bits) {
    for (int64_t n = 0; n <= 40; ++n) {
      const auto codes = fitting_codes(n, true, bits);
      std::vector<uint8_t> packed(packed_size(n, bits), 0xff);
      ASSERT_TRUE(scalar().bits.pack(codes.data(), true, n, bits, packed.data()));
      for (int64_t bit = 0; bit < 8 * packed_size(n, bits); ++bit) {
        const int wanted = bit < n * bits ? codes[bit / bits] >> (bit % bits) & 1 : 0;
        ASSERT_EQ(packed[bit / 8] >> (bit % 8) & 1, wanted) << "bit " << bit;
      }
    }
  }
}

}  // namespace
}  // namespace torchquant::kernels
