// Codes of 2 to 8 bits: a thread has eight of them, which are whole bytes, `bits` in number, and
// fit one 64-bit word. Each row begins a new byte.
#pragma once

#include "memory.h"

namespace torchquant::kernels::cuda {
namespace {

constexpr int kCodes = 8;

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

template <class Word>
struct [[gnu::may_alias]] AlignedWord {
  Word word;
};

template <class Word>
TORCHQUANT_HOST_DEVICE inline void put_word(uint8_t* to, uint64_t word) {
  reinterpret_cast<AlignedWord<Word>*>(to)->word = static_cast<Word>(word);
}

template <class Word>
TORCHQUANT_HOST_DEVICE inline uint64_t word_at(const uint8_t* from) {
  return reinterpret_cast<const AlignedWord<Word>*>(from)->word;
}

// The first `count` bytes of a word, at once where that is one word of the processor.
TORCHQUANT_HOST_DEVICE inline void store_bytes(uint8_t* to, uint64_t word, int count) {
  const auto address = reinterpret_cast<uintptr_t>(to);
  if (count == 8 && address % 8 == 0) return put_word<uint64_t>(to, word);
  if (count == 4 && address % 4 == 0) return put_word<uint32_t>(to, word);
  for (int i = 0; i < count; ++i) to[i] = static_cast<uint8_t>(word >> (8 * i));
}

TORCHQUANT_HOST_DEVICE inline uint64_t load_bytes(const uint8_t* from, int count) {
  const auto address = reinterpret_cast<uintptr_t>(from);
  if (count == 8 && address % 8 == 0) return word_at<uint64_t>(from);
  if (count == 4 && address % 4 == 0) return word_at<uint32_t>(from);
  uint64_t word = 0;
  for (int i = 0; i < count; ++i) word |= static_cast<uint64_t>(from[i]) << (8 * i);
  return word;
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
    const uint64_t bytes = load_bytes(codes + group.code, group.count);
    uint64_t word = 0;
    bool fit = true;
    TORCHQUANT_UNROLL
    for (int i = 0; i < kCodes; ++i) {
      if (i >= group.count) break;
      const auto code = static_cast<uint8_t>(bytes >> (8 * i));
      fit = fit && code == byte_of(code & mask, rows);
      word |= static_cast<uint64_t>(code & mask) << (i * rows.bits);
    }
    store_bytes(packed + group.byte, word, group.bytes(rows));
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
    const uint64_t word = load_bytes(packed + group.byte, group.bytes(rows));
    uint64_t bytes = 0;
    TORCHQUANT_UNROLL
    for (int i = 0; i < kCodes; ++i) {
      const auto code = static_cast<uint32_t>(word >> (i * rows.bits)) & mask;
      bytes |= static_cast<uint64_t>(byte_of(code, rows)) << (8 * i);
    }
    store_bytes(codes + group.code, bytes, group.count);
  }
};

}  // namespace
}  // namespace torchquant::kernels::cuda
