// How a CUDA thread reads and writes: value by value, or V of them in pieces of 16 bytes, where
// their addresses are multiples of that. Plain C++, so that tests run it on the host.
#pragma once

#include "../element.h"
#include "cuda_kernels.h"

// Loops over vectors, whose values are in registers only where every index is a constant.
#if defined(__CUDA_ARCH__)
#define TORCHQUANT_UNROLL _Pragma("unroll")
#else
#define TORCHQUANT_UNROLL
#endif

namespace torchquant::kernels::cuda {
namespace {

constexpr int kPieceBytes = 16;

TORCHQUANT_HOST_DEVICE inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

TORCHQUANT_HOST_DEVICE inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

template <class T, int V>
struct Vector {
  T values[V];
};

// The bytes that one instruction moves of a Vector<T, V>: all of it, or 16.
template <class T, int V>
constexpr int kPieceOf = sizeof(T) * V < kPieceBytes ? sizeof(T) * V : kPieceBytes;

// As words, so that one instruction moves them whatever they mean: may_alias, since they are read
// where values of other types lie.
template <int kBytes>
struct [[gnu::may_alias]] alignas(kBytes) Piece {
  uint32_t words[kBytes / sizeof(uint32_t)];
};

template <class T, int V>
TORCHQUANT_HOST_DEVICE inline bool is_aligned(const T* address) {
  return reinterpret_cast<uintptr_t>(address) % kPieceOf<T, V> == 0;
}

// What a card would fault on ends a test on the host too.
template <class T, int V>
TORCHQUANT_HOST_DEVICE inline void expect_aligned(const T* address) {
#if !defined(__CUDA_ARCH__)
  if (!is_aligned<T, V>(address)) __builtin_trap();
#endif
}

template <class T, int V>
TORCHQUANT_HOST_DEVICE inline Vector<T, V> load_vector(const T* from) {
  constexpr int kBytes = kPieceOf<T, V>, kValues = kBytes / sizeof(T);
  expect_aligned<T, V>(from);
  Vector<T, V> vector;
  TORCHQUANT_UNROLL
  for (int p = 0; p < V / kValues; ++p) {
    const Piece<kBytes> piece = reinterpret_cast<const Piece<kBytes>*>(from)[p];
    memcpy(vector.values + p * kValues, piece.words, kBytes);
  }
  return vector;
}

template <int kBytes>
TORCHQUANT_HOST_DEVICE inline void store_piece(void* to, const Piece<kBytes>& piece) {
#if defined(__CUDA_ARCH__)
  // An ordinary write, but surely one instruction: assignments are sometimes taken apart.
  const auto& w = piece.words;
  if constexpr (kBytes == 16) return __stwb(static_cast<uint4*>(to), {w[0], w[1], w[2], w[3]});
  if constexpr (kBytes == 8) return __stwb(static_cast<uint2*>(to), {w[0], w[1]});
#endif
  *static_cast<Piece<kBytes>*>(to) = piece;
}

// The bits of values that make up a word. Shifts, since a compiler takes copies of narrow values
// apart again, and stores them one by one.
template <class T>
TORCHQUANT_HOST_DEVICE inline uint32_t word_of(const T* values) {
  uint32_t word = 0;
  TORCHQUANT_UNROLL
  for (size_t i = 0; i < sizeof(word) / sizeof(T); ++i) {
    uint32_t bits = 0;
    memcpy(&bits, values + i, sizeof(T));
    word |= bits << (8 * sizeof(T) * i);
  }
  return word;
}

// To the card's memory; not to what a block shares.
template <class T, int V>
TORCHQUANT_HOST_DEVICE inline void store_vector(T* to, const Vector<T, V>& vector) {
  constexpr int kBytes = kPieceOf<T, V>, kWord = sizeof(uint32_t) / sizeof(T);
  expect_aligned<T, V>(to);
  TORCHQUANT_UNROLL
  for (int p = 0; p < V * static_cast<int>(sizeof(T)) / kBytes; ++p) {
    Piece<kBytes> piece;
    TORCHQUANT_UNROLL
    for (int w = 0; w < kBytes / 4; ++w) {
      piece.words[w] = word_of(vector.values + (p * kBytes / 4 + w) * kWord);
    }
    store_piece(to + p * (kBytes / sizeof(T)), piece);
  }
}

// The values before the first that a Vector<T, V> may begin with, at most n.
template <class T, int V>
TORCHQUANT_HOST_DEVICE inline int64_t head_of(const T* address, int64_t n) {
  const auto beyond = reinterpret_cast<uintptr_t>(address) % kPieceOf<T, V>;
  return beyond == 0 ? 0 : smaller(n, (kPieceOf<T, V> - beyond) / sizeof(T));
}

// What a thread does of work that is shared out: items first, first + step, and so on.
struct Share {
  int64_t first;
  int64_t step;
};

// Of work that knows how to do a share itself, or says what an item is.
template <class Work>
TORCHQUANT_HOST_DEVICE inline void do_share(const Work& work, Share share) {
  if constexpr (requires { work.run(share); }) {
    work.run(share);
  } else {
    const int64_t items = work.items();
    for (int64_t i = share.first; i < items; i += share.step) work(i);
  }
}

// Calls visit(x[i]) for this share of n values that follow each other.
template <class T, class Visit>
TORCHQUANT_HOST_DEVICE inline void for_each_value(const T* x, int64_t n, Share share,
                                                  Visit& visit) {
  constexpr int V = kPieceBytes / sizeof(T);
  const int64_t head = head_of<T, V>(x, n);
  const int64_t vectors = (n - head) / V;
  for (int64_t i = share.first; i < head; i += share.step) visit(x[i]);
  constexpr int kAtOnce = 4;  // loads under way
  for (int64_t i = share.first; i < vectors; i += kAtOnce * share.step) {
    Vector<T, V> several[kAtOnce];
    TORCHQUANT_UNROLL
    for (int u = 0; u < kAtOnce; ++u) {
      const int64_t at = i + u * share.step;
      if (at < vectors) several[u] = load_vector<T, V>(x + head + at * V);
    }
    TORCHQUANT_UNROLL
    for (int u = 0; u < kAtOnce; ++u) {
      if (i + u * share.step >= vectors) break;
      TORCHQUANT_UNROLL
      for (int j = 0; j < V; ++j) visit(several[u].values[j]);
    }
  }
  for (int64_t i = head + vectors * V + share.first; i < n; i += share.step) visit(x[i]);
}

// Elements of one type.
template <class T>
struct Rows {
  const T* data;
  int64_t row;
  int64_t stride;

  TORCHQUANT_HOST_DEVICE const T* at(int64_t index) const {
    if (row == stride) return data + index;
    const int64_t i = index / row;
    return data + i * stride + (index - i * row);
  }

  // Whether V elements from any multiple of V behind `head` may be read at once.
  template <int V>
  TORCHQUANT_HOST_DEVICE bool has_vectors(int64_t head) const {
    if (row == stride) return is_aligned<T, V>(data + head);
    return head == 0 && is_aligned<T, V>(data) && row % V == 0 && stride % V == 0;
  }
};

template <class T>
Rows<T> rows_of(const Elements& elements) {
  return {static_cast<const T*>(elements.data), elements.row, elements.stride};
}

}  // namespace
}  // namespace torchquant::kernels::cuda
