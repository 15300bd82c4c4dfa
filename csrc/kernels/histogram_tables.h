// A histogram in the making: kTables counters for each bin, side by side. Neighbouring values take
// turns, so that equal ones (the zeros of a relu) do not wait for each other's store.
#pragma once

#include "../math/range_histogram.h"
#include "element.h"

namespace torchquant::kernels {
namespace {

// `turn` is a value's index: its position decides which of the counters it takes.
inline void count(float value, int64_t turn, uint32_t* tables) {
  ++tables[bin_of(value) * kTables + turn % kTables];
}

inline void see(float value, Observed& seen) {
  const uint32_t magnitude = bits_of(value) & 0x7fffffff;
  if (magnitude != 0 && magnitude < seen.least) seen.least = magnitude;
  if (magnitude > seen.greatest) seen.greatest = magnitude;
  if (magnitude >= kInfinityBits) return;
  if (value < seen.min) seen.min = value;
  if (value > seen.max) seen.max = value;
}

inline void flush_bins(uint32_t* tables, int32_t first, int32_t last, int64_t* counts) {
  for (int32_t bin = first; bin <= last; ++bin) {
    uint32_t* counters = tables + bin * kTables;
    for (int32_t t = 0; t < kTables; ++t) {
      counts[bin] += counters[t];
      counters[t] = 0;
    }
  }
}

// Of one sign, whose bins begin with that of zero: only zeros and the bins between the least and
// the greatest magnitude hold something.
inline void flush_sign(uint32_t* tables, const Observed& seen, int32_t zero, int64_t* counts) {
  flush_bins(tables, zero, zero, counts);
  if (seen.greatest == 0) return;
  const auto first = static_cast<int32_t>(seen.least >> kBinShift);
  const auto last = static_cast<int32_t>(seen.greatest >> kBinShift);
  flush_bins(tables, zero + first, zero + last, counts);
}

inline void flush(uint32_t* tables, const Observed& seen, int64_t* counts) {
  flush_sign(tables, seen, 0, counts);
  flush_sign(tables, seen, kNegativeBins, counts);
}

}  // namespace
}  // namespace torchquant::kernels
