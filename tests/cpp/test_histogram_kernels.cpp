// Histogram kernels: every set leaves the counters, the counts and what is seen of the values as
// the scalar one does, and the scalar one as the definition written out here.
#include "kernel_sets.h"
#include "math/range_histogram.h"

namespace torchquant::kernels {
namespace {

using EverySetHistogram = EverySet;
INSTANTIATE_TEST_SUITE_P(Sets, EverySetHistogram, testing::ValuesIn(all_sets()), name_of);

using Tables = std::vector<uint32_t>;
using Counts = std::vector<int64_t>;

// Around a vector, a turn of the tables, and the blocks in which infinities are looked for.
std::vector<int64_t> lengths() {
  std::vector<int64_t> lengths = {4080, 4095, 4096, 4097, 4112, 8191, 8192, 8211, 12307};
  for (int64_t n = 0; n <= kLongest; ++n) lengths.push_back(n);
  return lengths;
}

// What one call of observe and one of flush leave.
struct Histogram {
  Tables tables = Tables(kBins * kTables);
  Observed seen = kNothingSeen;
  Counts counts = Counts(kBins);

  void observe(const Kernels& set, const void* x, Float type, int64_t n) {
    set.histogram.observe(x, type, n, tables.data(), seen);
  }
  void flush(const Kernels& set) { set.histogram.flush(tables.data(), seen, counts.data()); }
};

// Zeros compare equal: which of them is kept is no part of what is seen.
bool is_same(const Observed& a, const Observed& b) {
  return a.least == b.least && a.greatest == b.greatest && a.min == b.min && a.max == b.max;
}

Observed seen_of(const std::vector<float>& values) {
  Observed seen = kNothingSeen;
  for (const float value : values) {
    const uint32_t magnitude = bits_of(std::fabs(value));
    if (magnitude > 0) seen.least = std::min(seen.least, magnitude);
    seen.greatest = std::max(seen.greatest, magnitude);
    if (!std::isfinite(value)) continue;
    seen.min = std::min(seen.min, value);
    seen.max = std::max(seen.max, value);
  }
  return seen;
}

Counts counts_of(const std::vector<float>& values) {
  Counts counts(kBins);
  for (const float value : values) ++counts[bits_of(value) / (1u << 17)];
  return counts;
}

std::vector<float> to_floats(const void* x, Float type, int64_t n) {
  std::vector<float> values;
  for (int64_t i = 0; i < n; ++i) values.push_back(float_at(x, type, i));
  return values;
}

// Of the counters nothing is asked.
Observed seen_by(const Kernels& set, const std::vector<float>& values) {
  static Tables tables(kBins * kTables);
  const Fenced x(values);
  Observed seen = kNothingSeen;
  set.histogram.observe(x.data(), Float::f32, static_cast<int64_t>(values.size()), tables.data(),
                        seen);
  return seen;
}

// Observes and flushes, and says how this differs from the definition.
testing::AssertionResult counts_as_defined(const Kernels& set, const void* x, Float type,
                                           int64_t n) {
  const std::vector<float> values = to_floats(x, type, n);
  Histogram ours;
  ours.observe(set, x, type, n);
  if (!is_same(ours.seen, seen_of(values))) return testing::AssertionFailure() << "seen differs";
  ours.flush(set);
  if (ours.counts != counts_of(values)) return testing::AssertionFailure() << "counts differ";
  if (ours.tables != Tables(kBins * kTables)) {
    return testing::AssertionFailure() << "flush leaves counters that are not zero";
  }
  return testing::AssertionSuccess();
}

TEST_P(EverySetHistogram, CountsEveryLengthAsDefined) {
  for (const Float type : kFloats) {
    for (const bool finite : {true, false}) {
      for (const int64_t n : lengths()) {
        const Fenced x = floats(type, n, n, finite);
        ASSERT_TRUE(counts_as_defined(set(), x.data(), type, n)) << n;
      }
    }
  }
}

TEST_P(EverySetHistogram, LeavesTheCountersOfScalar) {
  for (const Float type : kFloats) {
    for (const int64_t n : lengths()) {
      const Fenced x = floats(type, n, n);
      Histogram ours, scalars;
      ours.observe(set(), x.data(), type, n);
      scalars.observe(scalar(), x.data(), type, n);
      ASSERT_EQ(ours.tables, scalars.tables) << n;
      ASSERT_TRUE(is_same(ours.seen, scalars.seen)) << n;
    }
  }
}

// Each half and the float32 it converts to: every one of their bins, NaN of every payload too.
TEST_P(EverySetHistogram, CountsEveryHalfAsItsFloat) {
  std::vector<uint16_t> bits(1 << 16);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i * 40503);
  for (const Float type : {Float::f16, Float::bf16}) {
    const Fenced x(bits);
    ASSERT_TRUE(counts_as_defined(set(), x.data(), type, 1 << 16));
  }
}

// Both ends of every bin, of either sign.
TEST_P(EverySetHistogram, CountsTheFirstAndTheLastValueOfEveryBin) {
  std::vector<uint32_t> bits;
  for (uint32_t bin = 0; bin < kBins; ++bin) {
    bits.push_back(bin << 17);
    bits.push_back((bin << 17) + 0x1ffff);
  }
  const Fenced x(bits);
  const auto n = static_cast<int64_t>(bits.size());
  Histogram ours;
  ours.observe(set(), x.data(), Float::f32, n);
  ours.flush(set());
  EXPECT_EQ(ours.counts, Counts(kBins, 2));
  EXPECT_EQ(ours.tables, Tables(kBins * kTables));
  EXPECT_EQ(ours.seen.least, 0x1ffffu);
  EXPECT_EQ(ours.seen.greatest, 0x7fffffffu);
  EXPECT_EQ(ours.seen.min, -FLT_MAX);
  EXPECT_EQ(ours.seen.max, FLT_MAX);
}

TEST_P(EverySetHistogram, LooksPastAnInfinityOrNanInEveryPosition) {
  for (const float bad : {INFINITY, -INFINITY, NAN, -NAN}) {
    for (int64_t n = 1; n <= 70; ++n) {
      for (int64_t i = 0; i < n; ++i) {
        std::vector<float> values(n);
        for (int64_t j = 0; j < n; ++j) values[j] = static_cast<float>(j + 2) * (j % 2 ? 1 : -1);
        values[i] = bad;
        ASSERT_TRUE(is_same(seen_by(set(), values), seen_of(values)))
            << bad << " at " << i << " of " << n;
      }
    }
  }
}

TEST_P(EverySetHistogram, LooksPastInfinitiesInTheMiddleOfBlocks) {
  for (const Float type : kFloats) {
    const int64_t n = 3 * 4096 + 37;
    for (const int64_t bad : {0, 2000, 4095, 4096, 6001, 8192, 12287, 12288, 12324}) {
      const Fenced finite = floats(type, n, bad, true);
      std::vector<uint8_t> bytes(finite.as<uint8_t>(), finite.as<uint8_t>() + n * size_of(type));
      with_type(type, [&](auto element) {
        const float value = bad % 2 == 0 ? INFINITY : -INFINITY;
        store(bytes.data(), bad, from_float<decltype(element)>(value));
        // The extremes stand beside the infinity.
        const int64_t beside = bad > 0 ? bad - 1 : 1;
        store(bytes.data(), beside, from_float<decltype(element)>(-60000.0f));
        store(bytes.data(), (beside + 2) % n, from_float<decltype(element)>(60000.0f));
      });
      const Fenced x(bytes, 1);
      ASSERT_TRUE(counts_as_defined(set(), x.data(), type, n)) << bad;
    }
  }
}

TEST_P(EverySetHistogram, AnExtremeIsSeenInEveryPosition) {
  for (int64_t n = 1; n <= 70; ++n) {
    for (int64_t i = 0; i < n; ++i) {
      for (const float extreme : {-5.0f, 5.0f, 1e-45f, -1e-45f}) {
        std::vector<float> values(n, 0.5f);
        values[i] = extreme;
        ASSERT_TRUE(is_same(seen_by(set(), values), seen_of(values)))
            << extreme << " at " << i << " of " << n;
      }
    }
  }
}

TEST_P(EverySetHistogram, AddsToWhatWasObservedBefore) {
  const Float types[] = {Float::f32, Float::bf16, Float::f16, Float::f32};
  Histogram ours;
  std::vector<float> all;
  for (int64_t part = 0; part < 4; ++part) {
    const int64_t n = 4200 * part + 3;
    const Fenced x = floats(types[part], n, part);
    ours.observe(set(), x.data(), types[part], n);
    const std::vector<float> values = to_floats(x.data(), types[part], n);
    all.insert(all.end(), values.begin(), values.end());
  }
  ASSERT_TRUE(is_same(ours.seen, seen_of(all)));
  ours.flush(set());
  const Counts once = counts_of(all);
  ASSERT_EQ(ours.counts, once);
  ours.flush(set());
  ASSERT_EQ(ours.counts, once) << "flushed twice";
}

TEST_P(EverySetHistogram, NothingIsObservedOfNoValues) {
  Histogram ours;
  ours.observe(set(), nullptr, Float::f32, 0);
  EXPECT_TRUE(is_same(ours.seen, kNothingSeen));
  ours.flush(set());
  EXPECT_EQ(ours.counts, Counts(kBins));
}

// So that equal neighbours do not wait for each other's store.
TEST_P(EverySetHistogram, NeighboursTakeTurns) {
  for (const Float type : kFloats) {
    for (const int64_t n : {4, 16, 20, 8200}) {
      const std::vector<uint8_t> zeros(n * size_of(type));
      Histogram ours;
      ours.observe(set(), Fenced(zeros).data(), type, n);
      for (int64_t t = 0; t < kTables; ++t) ASSERT_EQ(ours.tables[t], n / kTables) << t;
    }
  }
}

TEST_P(EverySetHistogram, CountersHoldMoreThanHalfOfTheirRange) {
  Histogram ours;
  const float value = 3.0f;
  ours.tables[bin_of(value) * kTables] = UINT32_MAX;
  ours.tables[bin_of(value) * kTables + 1] = UINT32_MAX;
  ours.seen = seen_of({value});
  ours.flush(set());
  EXPECT_EQ(ours.counts[bin_of(value)], 2 * int64_t{UINT32_MAX});
}

// Where the bins lie.
TEST(RangeHistogram, EdgesAreTheLeastValuesOfTheirBins) {
  for (int32_t bin = 0; bin < kFiniteBins; ++bin) {
    ASSERT_EQ(edge_of(bin), static_cast<double>(float_of(static_cast<uint32_t>(bin) << 17)));
  }
  EXPECT_EQ(edge_of(kFiniteBins), 0x1p128);
}

}  // namespace
}  // namespace torchquant::kernels
