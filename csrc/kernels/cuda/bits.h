// Codes of 2 to 8 bits: a thread has eight of them, which are whole bytes, `bits` in number, and
// fit one 64-bit word. Each row begins a new byte.
#pragma once

#include "memory.h"

namespace torchquant::kernels::cuda {
namespace {

constexpr int64_t kCodes = 8;

// Where the eight codes `item` lie.
struct BitGroup {
  int64_t code;  // the first of them
  int64_t byte;  // the first packed one
  int count;     // fewer than eight at the end of a row

  TORCHQUANT_HOST_DEVICE BitGroup(const BitRows& rows, int64_t item) {
    const int64_t groups = divide_up(rows.row, kCodes);
    const int64_t row = item / groups, group = item - row * groups;
    code = row * rows.row + group * kCodes;
    byte = row * row_bytes(rows) + group * rows.bits;
    count = static_cast<int>(smaller(kCodes, rows.row - group * kCodes));
  }

  TORCHQUANT_HOST_DEVICE int bytes(const BitRows& rows) const {
    return (count * rows.bits + 7) / 8;
  }

  TORCHQUANT_HOST_DEVICE static int64_t row_bytes(const BitRows& rows) {
    return rows.row / kCodes * rows.bits + (rows.row % kCodes * rows.bits + 7) / 8;
  }
};

TORCHQUANT_HOST_DEVICE inline int64_t bit_groups(const BitRows& rows) {
  return rows.rows * divide_up(rows.row, kCodes);
}

// The byte that a code stands for.
TORCHQUANT_HOST_DEVICE inline uint8_t byte_of(uint32_t code, const BitRows& rows) {
  const uint32_t sign = rows.is_signed ? 1u << (rows.bits - 1) : 0;
  return static_cast<uint8_t>((code ^ sign) - sign);
}

struct PackBits {
  const uint8_t* codes;
  BitRows rows;
  uint8_t* packed;
  int32_t* beyond;

  TORCHQUANT_HOST_DEVICE int64_t items() const { return bit_groups(rows); }

  TORCHQUANT_HOST_DEVICE void operator()(int64_t item) const {
    const BitGroup group(rows, item);
    const uint32_t mask = (1u << rows.bits) - 1;
    uint64_t word = 0;
    bool fit = true;
    for (int i = 0; i < group.count; ++i) {
      const uint8_t code = codes[group.code + i];
      fit = fit && code == byte_of(code & mask, rows);
      word |= static_cast<uint64_t>(code & mask) << (i * rows.bits);
    }
    for (int i = 0; i < group.bytes(rows); ++i) {
      packed[group.byte + i] = static_cast<uint8_t>(word >> (8 * i));
    }
    if (!fit) *beyond = 1;
  }
};

struct UnpackBits {
  const uint8_t* packed;
  BitRows rows;
  uint8_t* codes;

  TORCHQUANT_HOST_DEVICE int64_t items() const { return bit_groups(rows); }

  TORCHQUANT_HOST_DEVICE void operator()(int64_t item) const {
    const BitGroup group(rows, item);
    const uint32_t mask = (1u << rows.bits) - 1;
    uint64_t word = 0;
    for (int i = 0; i < group.bytes(rows); ++i) {
      word |= static_cast<uint64_t>(packed[group.byte + i]) << (8 * i);
    }
    for (int i = 0; i < group.count; ++i) {
      const auto code = static_cast<uint32_t>(word >> (i * rows.bits)) & mask;
      codes[group.code + i] = byte_of(code, rows);
    }
  }
};

}  // namespace
}  // namespace torchquant::kernels::cuda
