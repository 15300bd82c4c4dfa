// Codes of a few bits as CUDA threads pack and unpack them, against the scalar kernel row by row.
#include "device_data.h"
#include "kernels/cuda/bits.h"
#include "launched.h"

namespace torchquant::kernels::cuda {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr int64_t kLongestRow = 40;

int64_t packed_size(const BitRows& rows) { return (rows.row * rows.bits + 7) / 8; }

Bytes packed_on_the_cpu(const Bytes& codes, const BitRows& rows, bool& fit) {
  Bytes packed(static_cast<size_t>(rows.rows * packed_size(rows)));
  fit = true;
  for (int64_t r = 0; r < rows.rows; ++r) {
    fit &= bits_scalar.pack(codes.data() + r * rows.row, rows.is_signed, rows.row, rows.bits,
                            packed.data() + r * packed_size(rows));
  }
  return packed;
}

Bytes unpacked_on_the_cpu(const Bytes& packed, const BitRows& rows) {
  Bytes codes(static_cast<size_t>(rows.rows * rows.row));
  for (int64_t r = 0; r < rows.rows; ++r) {
    bits_scalar.unpack(packed.data() + r * packed_size(rows), rows.is_signed, rows.row, rows.bits,
                       codes.data() + r * rows.row);
  }
  return codes;
}

// Codes that fit, as unpacking any bytes gives them.
Bytes fitting_codes(const BitRows& rows) {
  return unpacked_on_the_cpu(random_bytes(rows.rows * packed_size(rows), rows.row), rows);
}

template <class Check>
void for_each_shape(Check check) {
  for (int bits = 2; bits <= 8; ++bits) {
    for (const bool is_signed : {true, false}) {
      for (const int64_t rows : {0, 1, 2, 5}) {
        for (int64_t row = 0; row <= kLongestRow; ++row) check(BitRows{rows, row, bits, is_signed});
      }
    }
  }
}

TEST(CudaBits, PackAsTheScalarKernelDoes) {
  for_each_shape([](const BitRows& rows) {
    const Bytes codes = fitting_codes(rows);
    const Fenced memory(codes);
    Result<uint8_t> packed(rows.rows * packed_size(rows), 1);
    int32_t beyond = 0;
    run(PackBits{memory.as<uint8_t>(), rows, packed.data(), &beyond});
    bool fit = false;
    ASSERT_TRUE(packed.holds(packed_on_the_cpu(codes, rows, fit)))
        << rows.rows << " x " << rows.row << " of " << rows.bits;
    ASSERT_EQ(beyond, 0);
  });
}

// What lies in the spare bits does not matter.
TEST(CudaBits, UnpackAsTheScalarKernelDoes) {
  for_each_shape([](const BitRows& rows) {
    const Bytes packed = random_bytes(rows.rows * packed_size(rows), rows.row + rows.bits);
    const Fenced memory(packed);
    Result<uint8_t> codes(rows.rows * rows.row, 1);
    run(UnpackBits{memory.as<uint8_t>(), rows, codes.data()});
    ASSERT_TRUE(codes.holds(unpacked_on_the_cpu(packed, rows)))
        << rows.rows << " x " << rows.row << " of " << rows.bits;
  });
}

TEST(CudaBits, TellOfACodeThatDoesNotFitInEveryPosition) {
  for (int bits = 2; bits <= 8; ++bits) {
    for (const bool is_signed : {true, false}) {
      const BitRows rows = {2, 13, bits, is_signed};
      for (size_t i = 0; i < 26; ++i) {
        for (int byte = 0; byte < 256; ++byte) {
          Bytes codes = fitting_codes(rows), packed(2 * static_cast<size_t>(packed_size(rows)));
          codes[i] = static_cast<uint8_t>(byte);
          int32_t beyond = 0;
          run(PackBits{codes.data(), rows, packed.data(), &beyond});
          bool fit = false;
          packed_on_the_cpu(codes, rows, fit);
          ASSERT_EQ(beyond, fit ? 0 : 1) << byte << " at " << i << " in " << bits << " bits";
        }
      }
    }
  }
}

TEST(CudaBits, CountBeyond32Bits) {
  const BitRows rows = {int64_t{1} << 32, 11, 7, true};
  ASSERT_EQ(bit_groups(rows), int64_t{1} << 33);
  const int64_t row = (int64_t{1} << 32) - 1;
  const BitGroup last(rows, 2 * row + 1);
  EXPECT_EQ(last.code, row * 11 + 8);
  EXPECT_EQ(last.byte, row * 10 + 7);
  EXPECT_EQ(last.count, 3);
}

}  // namespace
}  // namespace torchquant::kernels::cuda
