// Histograms as blocks of CUDA threads count them, against the definition written out here.
#include "device_data.h"
#include "kernels/cuda/histogram.h"
#include "launched.h"

namespace torchquant::kernels::cuda {
namespace {

using Counts = std::vector<int64_t>;

struct PlainAdd {
  void operator()(uint32_t* address, uint32_t amount) const { *address += amount; }
  void operator()(int64_t* address, uint32_t amount) const { *address += amount; }
};

// The calibration state: counts that went on before, and the range of what was seen.
struct State {
  Counts counts = Counts(kBins);
  float range[2] = {INFINITY, -INFINITY};

  template <class T>
  void observe_as_defined(const std::vector<T>& x) {
    for (const T element : x) {
      const float value = to_float(element);
      ++counts[bits_of(value) / (1u << 17)];
      if (!std::isfinite(value)) continue;
      if (value < range[0]) range[0] = value;
      if (value > range[1]) range[1] = value;
    }
  }

  template <int kThreads, class T>
  void observe_with_threads(const std::vector<T>& x, int64_t stretch, int64_t offset) {
    const Fenced memory = placed(x, offset);
    const auto n = static_cast<int64_t>(x.size());
    count_values<kThreads>(CountValues<T, PlainAdd>{memory.as<T>(), n, stretch, counts.data(), {}},
                           range);
  }

  bool operator==(const State& other) const {
    return counts == other.counts && range[0] == other.range[0] && range[1] == other.range[1];
  }
};

template <int kThreads, class T>
bool counts_as_defined(const std::vector<T>& x, int64_t stretch, int64_t offset) {
  State ours, wanted;
  ours.observe_with_threads<kThreads>(x, stretch, offset);
  wanted.observe_as_defined(x);
  return ours == wanted;
}

TEST(CudaHistogram, CountsEveryLengthAtEveryAlignment) {
  for_each_float([](auto value) {
    for (int64_t n = 0; n <= 40; ++n) {
      for (int64_t offset = 0; offset < 8; ++offset) {
        const auto x = samples<decltype(value)>(n, n + offset);
        ASSERT_TRUE(counts_as_defined<32>(x, 65535, offset)) << n << " at " << offset;
      }
    }
  });
}

// Lengths around those of one stretch and of several, which begin at any element.
TEST(CudaHistogram, CountsStretchByStretch) {
  for_each_float([](auto value) {
    for (const int64_t stretch : {1, 7, 100, 101, 256}) {
      for (const int64_t n :
           {stretch - 1, stretch, stretch + 1, 3 * stretch - 1, 3 * stretch, 3 * stretch + 1}) {
        const auto x = samples<decltype(value)>(n, n);
        ASSERT_TRUE(counts_as_defined<32>(x, stretch, 1)) << n << " by " << stretch;
      }
    }
  });
}

TEST(CudaHistogram, CountsWithAsManyThreadsAsABlockHas) {
  for_each_float([](auto value) {
    for (const int64_t n : {5, 9000, 70000}) {
      const auto x = samples<decltype(value)>(n, n);
      ASSERT_TRUE(counts_as_defined<1024>(x, 65535, 3)) << n;
    }
  });
}

// Two bins share a word: neither may overflow into the other.
TEST(CudaHistogram, HoldsAWholeStretchOfOneBin) {
  constexpr int32_t kEven = 128 << 6, kOdd = kEven + 1;
  for (const int32_t bin : {kEven, kOdd, 0, 1, kBins - 2, kBins - 1}) {
    const float value = float_of(static_cast<uint32_t>(bin) << kBinShift);
    for (const int64_t n : {kLongestStretch, 2 * kLongestStretch}) {
      const std::vector<float> x(static_cast<size_t>(n), value);
      State state;
      state.observe_with_threads<256>(x, kLongestStretch, 2);
      Counts wanted(kBins);
      wanted[static_cast<size_t>(bin)] = n;
      ASSERT_TRUE(state.counts == wanted) << bin;
    }
  }
}

TEST(CudaHistogram, AddsToCountsBeyond32Bits) {
  const std::vector<float> x(1000, 1.5f);
  const auto bin = static_cast<size_t>(bin_of(1.5f));
  for (const int64_t before : {int64_t{UINT32_MAX} - 500, int64_t{1} << 40, int64_t{1} << 62}) {
    State state;
    state.counts[bin] = before;
    state.counts[bin + 1] = before;
    state.observe_with_threads<32>(x, 64, 0);
    ASSERT_EQ(state.counts[bin], before + 1000);
    ASSERT_EQ(state.counts[bin + 1], before);
  }
}

TEST(CudaHistogram, FindsTheEndsInEveryPosition) {
  for (size_t i = 0; i < 150; ++i) {
    std::vector<Half> x(150, from_float<Half>(1.0f));
    x[i] = from_float<Half>(-7.0f);
    x[(i + 1) % 150] = from_float<Half>(9.0f);
    State state;
    state.observe_with_threads<32>(x, 60, static_cast<int64_t>(i % 8));
    ASSERT_EQ(state.range[0], -7.0f) << i;
    ASSERT_EQ(state.range[1], 9.0f) << i;
  }
}

void expect_range(const std::vector<float>& x, std::pair<float, float> before,
                  std::pair<float, float> wanted) {
  State state;
  state.range[0] = before.first;
  state.range[1] = before.second;
  state.observe_with_threads<32>(x, 2, 0);
  EXPECT_EQ(bits_of(state.range[0]), bits_of(wanted.first)) << state.range[0];
  EXPECT_EQ(bits_of(state.range[1]), bits_of(wanted.second)) << state.range[1];
}

TEST(CudaHistogram, WidensTheRangeByFiniteValuesAlone) {
  const std::pair nothing = {INFINITY, -INFINITY};
  expect_range({}, nothing, nothing);
  expect_range({NAN, INFINITY, -INFINITY}, nothing, nothing);
  expect_range({NAN, INFINITY, -INFINITY}, {-1.0f, 2.0f}, {-1.0f, 2.0f});
  expect_range({NAN, 3.0f, -INFINITY, 1.0f, INFINITY}, nothing, {1.0f, 3.0f});
  expect_range({3.0f, 1.0f}, {-1.0f, 2.0f}, {-1.0f, 3.0f});
  expect_range({-3e38f, 3e38f}, {1.0f, 2.0f}, {-3e38f, 3e38f});
}

// Which zero came first must not show, and a NaN that was there stays.
TEST(CudaHistogram, LeavesNoNegativeZeroAndEveryNanInTheRange) {
  const std::pair nothing = {INFINITY, -INFINITY};
  expect_range({-0.0f}, nothing, {0.0f, 0.0f});
  expect_range({0.0f, -0.0f, -0.0f, 0.0f}, nothing, {0.0f, 0.0f});
  expect_range({-0.0f, 5.0f}, {0.0f, 1.0f}, {0.0f, 5.0f});
  expect_range({1.0f}, {-0.0f, 0.5f}, {0.0f, 1.0f});
  expect_range({1.0f}, {NAN, NAN}, {NAN, NAN});
  expect_range({1.0f}, {NAN, 0.5f}, {NAN, 1.0f});
}

}  // namespace
}  // namespace torchquant::kernels::cuda
