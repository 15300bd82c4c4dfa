// Counting values into their bins: a block of threads counts a stretch of them in shared memory,
// two bins to a word, which every processor has room for, and then adds what it found to the
// counts. A stretch is so short that half a word holds its length.
#pragma once

#include "../../math/range_histogram.h"
#include "memory.h"

namespace torchquant::kernels::cuda {
namespace {

constexpr int kCounterWords = kBins / 2;
constexpr int64_t kLongestStretch = 65535;

// The finite values' minimum and maximum.
struct SeeFinite {
  SeenRange seen = {INFINITY, -INFINITY};

  TORCHQUANT_HOST_DEVICE void operator()(float x) {
    if ((bits_of(x) & 0x7fffffff) >= kInfinityBits) return;
    seen.min = x < seen.min ? x : seen.min;
    seen.max = x > seen.max ? x : seen.max;
  }
};

struct MergeSeen {
  TORCHQUANT_HOST_DEVICE SeenRange operator()(const SeenRange& a, const SeenRange& b) const {
    return {a.min < b.min ? a.min : b.min, a.max > b.max ? a.max : b.max};
  }
};

// Add is atomic where threads run at once: add(address, amount).
template <class T, class Add>
struct CountValues {
  const T* x;
  int64_t n;
  int64_t stretch;
  int64_t* counts;
  Add add;

  TORCHQUANT_HOST_DEVICE int64_t blocks() const { return divide_up(n, stretch); }

  TORCHQUANT_HOST_DEVICE void clear(uint32_t* words, Share thread) const {
    for (int64_t i = thread.first; i < kCounterWords; i += thread.step) words[i] = 0;
  }

  TORCHQUANT_HOST_DEVICE SeenRange observe(int64_t block, uint32_t* words, Share thread) const {
    const int64_t begin = block * stretch;
    Visit visit = {words, add, {}};
    for_each_value(x + begin, smaller(stretch, n - begin), thread, visit);
    return visit.see.seen;
  }

  TORCHQUANT_HOST_DEVICE void flush(const uint32_t* words, Share thread) const {
    for (int64_t i = thread.first; i < kCounterWords; i += thread.step) {
      const uint32_t low = words[i] & 0xffff, high = words[i] >> 16;
      if (low != 0) add(counts + 2 * i, low);
      if (high != 0) add(counts + 2 * i + 1, high);
    }
  }

 private:
  struct Visit {
    uint32_t* words;
    Add add;
    SeeFinite see;

    TORCHQUANT_HOST_DEVICE void operator()(T value) {
      const float x_value = to_float(value);
      const int32_t bin = bin_of(x_value);
      add(words + bin / 2, bin % 2 == 0 ? 1u : 0x10000u);
      see(x_value);
    }
  };
};

// + 0 makes -0 a 0: which of them came first must not show. A NaN in the range stays.
TORCHQUANT_HOST_DEVICE inline void merge_into(float* range, const SeenRange& seen) {
  range[0] = (seen.min < range[0] ? seen.min : range[0]) + 0.0f;
  range[1] = (seen.max > range[1] ? seen.max : range[1]) + 0.0f;
}

}  // namespace
}  // namespace torchquant::kernels::cuda
