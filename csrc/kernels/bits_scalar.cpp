// Codes of 2 to 8 bits, eight at a time: 8 * bits bits are whole bytes and fit one 64-bit word.
#include "element.h"

namespace torchquant::kernels {
namespace {

constexpr int64_t kGroup = 8;

int64_t count_of(int64_t n, int64_t first) { return n - first < kGroup ? n - first : kGroup; }

size_t bytes_of(int64_t count, int bits) { return static_cast<size_t>((count * bits + 7) / 8); }

int sign_extend(int code, int bits) { return (code ^ (1 << (bits - 1))) - (1 << (bits - 1)); }

bool fit(const void* codes, bool is_signed, int64_t n, int bits) {
  const int low = is_signed ? -(1 << (bits - 1)) : 0;
  const int high = low + (1 << bits) - 1;
  bool all_fit = true;
  for (int64_t i = 0; i < n; ++i) {
    const int code = is_signed ? load<int8_t>(codes, i) : load<uint8_t>(codes, i);
    all_fit &= low <= code && code <= high;
  }
  return all_fit;
}

void pack(const void* codes, int64_t n, int bits, void* packed) {
  const uint64_t mask = (1u << bits) - 1;
  for (int64_t first = 0; first < n; first += kGroup) {
    const int64_t count = count_of(n, first);
    uint64_t word = 0;
    for (int64_t i = 0; i < count; ++i) {
      word |= (load<uint8_t>(codes, first + i) & mask) << (i * bits);
    }
    memcpy(at<uint8_t>(packed, first / kGroup * bits), &word, bytes_of(count, bits));
  }
}

void unpack(const void* packed, bool is_signed, int64_t n, int bits, void* codes) {
  const uint64_t mask = (1u << bits) - 1;
  for (int64_t first = 0; first < n; first += kGroup) {
    const int64_t count = count_of(n, first);
    uint64_t word = 0;
    memcpy(&word, at<uint8_t>(packed, first / kGroup * bits), bytes_of(count, bits));
    for (int64_t i = 0; i < count; ++i) {
      const int code = static_cast<int>((word >> (i * bits)) & mask);
      const int value = is_signed ? sign_extend(code, bits) : code;
      store(codes, first + i, static_cast<uint8_t>(value));
    }
  }
}

}  // namespace

const BitsKernels bits_scalar = {fit, pack, unpack};

}  // namespace torchquant::kernels
