// Sums as CUDA threads add them up, against the scalar kernels block by block, as the operators for
// the CPU call them: the same bits.
#include "device_data.h"
#include "kernels/cuda/sums.h"
#include "launched.h"

namespace torchquant::kernels::cuda {
namespace {

int64_t blocks_of(int64_t size) { return (size + kSumBlock - 1) / kSumBlock; }

// What sums.cu launches, in memory that held other numbers before.
template <class Terms, class Finish>
void add_up(const Terms& terms, const SumGrid& grid, bool lanes_first, const Finish& finish) {
  using Sum = typename Terms::Sum;
  Sum nonsense;
  memset(&nonsense, 0x7b, sizeof(nonsense));
  std::vector<Sum> lanes(static_cast<size_t>(grid.lanes()), nonsense);
  std::vector<Sum> blocks(static_cast<size_t>(grid.blocks * grid.channels), nonsense);
  run(SumLanes<Terms>{terms, grid, lanes_first, lanes.data()});
  run(SumBlocks<Sum>{grid, lanes.data(), blocks.data()});
  run(SumChannel<Sum, Finish>{grid, blocks.data(), finish});
}

template <class T>
constexpr Float float_type() {
  if (std::is_same_v<T, Half>) return Float::f16;
  return std::is_same_v<T, BFloat16> ? Float::bf16 : Float::f32;
}

template <class T>
std::vector<double> as_doubles(const T* x, int64_t n) {
  std::vector<double> values;
  for (int64_t i = 0; i < n; ++i) values.push_back(to_double(x[i]));
  return values;
}

// Of one block: what is float64 on one side is made so on both.
template <class T, class U>
ErrorSums block_errors(const T* x, const U* y, int64_t n) {
  if constexpr (std::is_same_v<T, double> || std::is_same_v<U, double>) {
    return error_scalar.doubles(as_doubles(x, n).data(), as_doubles(y, n).data(), n);
  } else {
    return error_scalar.floats(x, float_type<T>(), y, float_type<U>(), n);
  }
}

template <class T, class U>
std::vector<double> errors_on_the_cpu(const std::vector<T>& x, const std::vector<U>& y) {
  const auto size = static_cast<int64_t>(x.size());
  ErrorSums total = {};
  for (int64_t begin = 0; begin < size; begin += kSumBlock) {
    const ErrorSums block =
        block_errors(x.data() + begin, y.data() + begin, std::min(kSumBlock, size - begin));
    total.max_error = std::max(total.max_error, block.max_error);
    total.absolute += block.absolute;
    total.squared += block.squared;
    total.signal += block.signal;
  }
  if (std::isnan(total.absolute)) total.max_error = NAN;
  const auto count = static_cast<double>(size);
  const double snr_db =
      total.max_error == 0 ? INFINITY : 10 * std::log10(total.signal / total.squared);
  return {total.max_error, total.absolute / count, total.squared / count, snr_db};
}

template <class T, class U>
std::vector<double> errors_of_threads(const std::vector<T>& x, const std::vector<U>& y,
                                      bool lanes_first) {
  const auto size = static_cast<int64_t>(x.size());
  std::vector<double> errors(4, 12345);
  add_up(ErrorTerms<T, U>{x.data(), y.data()}, {1, blocks_of(size), size}, lanes_first,
         FinishErrors{static_cast<double>(size), errors.data()});
  return errors;
}

template <class T, class U>
void expect_errors_of_the_cpu(const std::vector<T>& x, const std::vector<U>& y) {
  const std::vector<double> wanted = errors_on_the_cpu(x, y);
  for (const bool lanes_first : {true, false}) {
    const std::vector<double> errors = errors_of_threads(x, y, lanes_first);
    for (size_t i = 0; i < errors.size(); ++i) {
      ASSERT_TRUE(is_same_sum(errors[i], wanted[i])) << i << " of " << x.size() << " values";
    }
  }
}

template <class Visit>
void for_each_real(Visit visit) {
  for_each_float(visit);
  visit(double());
}

TEST(CudaSums, AddUpErrorsAsTheCpuDoes) {
  for_each_real([](auto a) {
    for_each_real([](auto b) {
      for (const int64_t size : {1, 2, 15, 16, 17, 100, 4095, 4096, 4097, 4113, 12388}) {
        for (const bool finite : {true, false}) {
          expect_errors_of_the_cpu(samples<decltype(a)>(size, size, finite),
                                   samples<decltype(b)>(size, size + 1, finite));
        }
      }
    });
  });
}

// Elsewhere everything is finite, so that nothing hides the maximum of the other errors.
TEST(CudaSums, ANanErrorIsTheGreatestErrorInEveryPosition) {
  for (const int64_t size : {1, 40, 4100}) {
    for (int64_t i = 0; i < size; i += 1 + size / 50) {
      auto x = samples<float>(size, 1, true), y = samples<float>(size, 2, true);
      y[static_cast<size_t>(i)] = NAN;
      expect_errors_of_the_cpu(x, y);
      ASSERT_TRUE(std::isnan(errors_of_threads(x, y, true)[0])) << i << " of " << size;
    }
  }
}

TEST(CudaSums, NoErrorIsInfinitelyBelowTheSignal) {
  for (const auto& x : {samples<float>(5000, 1, true), std::vector<float>(5000)}) {
    expect_errors_of_the_cpu(x, x);
    ASSERT_EQ(errors_of_threads(x, x, true)[3], INFINITY);
  }
}

TEST(CudaSums, AnErrorOfNothingIsInfinitelyAboveIt) {
  const std::vector<float> zeros(100);
  for (const auto& y : {std::vector<float>(100, 1.0f), samples<float>(100, 1, true)}) {
    expect_errors_of_the_cpu(zeros, y);
    ASSERT_EQ(errors_of_threads(zeros, y, true)[3], -INFINITY);
  }
}

// The gradients of fake_quantize, for the type T.
template <class T>
struct Backward {
  Backward(const View& view, CodeRange codes, int64_t seed, bool finite)
      : view(view),
        params(view.channels.count, seed),
        codes(codes),
        output(samples<T>(view.size(), seed, finite)),
        x(samples<T>(view.size(), seed + 1)) {}

  int64_t channel_size() const { return view.channels.outer * view.channels.inner; }

  const View& view;
  Params params;
  CodeRange codes;
  std::vector<T> output;
  std::vector<T> x;
};

template <class T>
struct BothGradients {
  std::vector<T> input;
  std::vector<float> scale;
};

// A channel's elements brought together, its blocks one by one, and what they give put back.
template <class T>
void gather_channel(const Backward<T>& b, int64_t channel, BothGradients<T>& wanted) {
  std::vector<size_t> places;
  std::vector<T> output, x;
  for (size_t i = 0; i < b.x.size(); ++i) {
    if (b.view.channel_of[i] != channel) continue;
    places.push_back(i);
    output.push_back(b.output[i]);
    x.push_back(b.x[i]);
  }
  const ChannelParams params = {b.params.scale.data() + channel,
                                b.params.zero_point.data() + channel, b.codes.min, b.codes.max};
  std::vector<T> input(x.size());
  double sum = 0;
  for (size_t begin = 0; begin < x.size(); begin += kSumBlock) {
    const auto n = std::min<int64_t>(kSumBlock, static_cast<int64_t>(x.size() - begin));
    sum += fake_quantize_scalar.slope_block(
        {&output[begin], &x[begin], &input[begin], float_type<T>()}, n, params);
  }
  for (size_t j = 0; j < places.size(); ++j) wanted.input[places[j]] = input[j];
  wanted.scale[static_cast<size_t>(channel)] = static_cast<float>(sum);
}

// Channels that are columns.
template <class T>
void add_columns(const Backward<T>& b, BothGradients<T>& wanted) {
  const int64_t channels = b.view.channels.count, padded = padded_columns(channels);
  const ChannelParams params = {b.params.scale.data(), b.params.zero_point.data(), b.codes.min,
                                b.codes.max};
  std::vector<double> totals(static_cast<size_t>(channels));
  for (int64_t row = 0; row < b.view.channels.outer; row += kSumBlock) {
    std::vector<double> lanes(static_cast<size_t>(kSumLanes * padded)), block(totals.size());
    const int64_t first = row * channels;
    fake_quantize_scalar.slope_columns(
        {&b.output[first], &b.x[first], &wanted.input[first], float_type<T>()},
        std::min(kSumBlock, b.view.channels.outer - row), channels, channels, params, lanes.data());
    for (int64_t lane = 0; lane < kSumLanes; ++lane) {
      for (int64_t j = 0; j < channels; ++j) block[j] += lanes[lane * padded + j];
    }
    for (int64_t j = 0; j < channels; ++j) totals[j] += block[j];
  }
  for (int64_t j = 0; j < channels; ++j) wanted.scale[j] = static_cast<float>(totals[j]);
}

template <class T>
BothGradients<T> gradients_on_the_cpu(const Backward<T>& b) {
  const Channels& channels = b.view.channels;
  BothGradients<T> wanted = {std::vector<T>(b.x.size()),
                             std::vector<float>(static_cast<size_t>(channels.count))};
  if (b.view.size() == 0) return wanted;
  if (channels.outer > 1 && channels.count > 1 && channels.inner == 1) {
    add_columns(b, wanted);
  } else {
    for (int64_t c = 0; c < channels.count; ++c) gather_channel(b, c, wanted);
  }
  return wanted;
}

template <class T>
void expect_gradients_of_the_cpu(const Backward<T>& b) {
  const BothGradients<T> wanted = gradients_on_the_cpu(b);
  for (const bool lanes_first : {true, false}) {
    Result<T> input(b.view.size());
    Result<float> scale(b.view.channels.count);
    const SumGrid grid = {b.view.channels.count, blocks_of(b.channel_size()), b.channel_size()};
    add_up(SlopeTerms<T>{b.output.data(), b.x.data(), input.data(), b.view.channels,
                         b.params.pointers(), b.codes.min, b.codes.max},
           grid, lanes_first, KeepGradient{scale.data()});
    ASSERT_TRUE(input.holds(wanted.input));
    ASSERT_TRUE(scale.holds(wanted.scale, is_same_sum));
  }
}

std::vector<View> views_of_slopes() {
  std::vector<View> views;
  for (const int64_t size : {0, 1, 15, 16, 17, 500, 4096, 4097, 9000}) {
    views.push_back(one_channel(size));
  }
  const int64_t shapes[][3] = {{1, 5, 100}, {1, 3, 5000}, {7, 5, 1},    {8200, 3, 1}, {40, 70, 1},
                               {3, 4, 7},   {50, 3, 100}, {2, 3, 4096}, {700, 2, 15}, {5, 1, 1000}};
  for (const auto& [outer, count, inner] : shapes) {
    views.push_back(channel_view(outer, count, inner));
  }
  for (const int64_t count : {0, 4}) views.push_back({{1, count, 0, 0, 1}, {}});
  return views;
}

// Infinite gradients hide what else is summed up.
TEST(CudaSums, AddUpTheGradientsOfScalesAsTheCpuDoes) {
  const std::vector<View> views = views_of_slopes();
  for_each_float([&](auto value) {
    for (size_t v = 0; v < views.size(); ++v) {
      for (const bool finite : {true, false}) {
        const CodeRange codes = v % 2 == 0 ? CodeRange{-128, 127} : CodeRange{0, 15};
        for (int64_t seed = 0; seed < 4; ++seed) {
          expect_gradients_of_the_cpu(Backward<decltype(value)>(views[v], codes, seed, finite));
          ASSERT_FALSE(testing::Test::HasFatalFailure()) << "view " << v;
        }
      }
    }
  });
}

}  // namespace
}  // namespace torchquant::kernels::cuda
