// Codes of 2 to 8 bits, eight at a time: 8 * bits bits are whole bytes and fit one 64-bit word.
#include "element.h"

namespace torchquant::kernels {
namespace {

constexpr int64_t kGroup = 8;

int64_t count_of(int64_t n, int64_t first) { return n - first < kGroup ? n - first : kGroup; }

size_t bytes_of(int64_t count, int bits) { return static_cast<size_t>((count * bits + 7) / 8); }

// The byte that a code stands for.
uint8_t value_of(int code, bool is_signed, int bits) {
  const int sign = is_signed ? 1 << (bits - 1) : 0;
  return static_cast<uint8_t>((code ^ sign) - sign);
}

bool pack(const void* codes, bool is_signed, int64_t n, int bits, void* packed) {
  const uint64_t mask = (1u << bits) - 1;
  bool all_fit = true;
  for (int64_t first = 0; first < n; first += kGroup) {
    const int64_t count = count_of(n, first);
    uint64_t word = 0;
    for (int64_t i = 0; i < count; ++i) {
      const auto code = load<uint8_t>(codes, first + i);
      const uint64_t kept = code & mask;
      all_fit &= code == value_of(static_cast<int>(kept), is_signed, bits);
      word |= kept << (i * bits);
    }
    memcpy(at<uint8_t>(packed, first / kGroup * bits), &word, bytes_of(count, bits));
  }
  return all_fit;
}

void unpack(const void* packed, bool is_signed, int64_t n, int bits, void* codes) {
  const uint64_t mask = (1u << bits) - 1;
  for (int64_t first = 0; first < n; first += kGroup) {
    const int64_t count = count_of(n, first);
    uint64_t word = 0;
    memcpy(&word, at<uint8_t>(packed, first / kGroup * bits), bytes_of(count, bits));
    for (int64_t i = 0; i < count; ++i) {
      const int code = static_cast<int>((word >> (i * bits)) & mask);
      store(codes, first + i, value_of(code, is_signed, bits));
    }
  }
}

}  // namespace

const BitsKernels bits_scalar = {pack, unpack};

}  // namespace torchquant::kernels
