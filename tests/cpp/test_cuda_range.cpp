// Ranges as teams of CUDA threads find them, and what they make of them, against loops over
// math/affine.h.
#include "device_data.h"
#include "kernels/cuda/range.h"
#include "launched.h"

namespace torchquant::kernels::cuda {
namespace {

// Which of two zeros is the smaller one does not matter.
bool is_same(const Range& a, const Range& b) {
  return a.absmax_bits == b.absmax_bits && a.min == b.min && a.max == b.max;
}

template <class T>
Range with(const Range& range, T value) {
  const float x = to_float(value);
  return merge({x, x, bits_of(std::fabs(x))}, range);
}

template <class T>
std::vector<Range> ranges_of(const std::vector<T>& x, const View& view) {
  std::vector<Range> ranges(static_cast<size_t>(view.channels.count), kEmptyRange);
  for (size_t i = 0; i < x.size(); ++i) {
    Range& range = ranges[static_cast<size_t>(view.channel_of[i])];
    range = with(range, x[i]);
  }
  return ranges;
}

QParams wanted_qparams(const ChosenCodes& codes, const Range& range) {
  return codes.symmetric ? symmetric_qparams(range, codes.quant_min, codes.quant_max)
                         : affine_qparams(range, codes.quant_min, codes.quant_max);
}

constexpr ChosenCodes kChosen[] = {
    {-128, 127, true}, {0, 255, false}, {-8, 7, false}, {-65536, 65535, true}};

// Room for the parameters of channels.
struct Chosen {
  explicit Chosen(int64_t count) : count(count), scale(count, 1), zero_point(count, 1) {}

  KeepQParams keep(const ChosenCodes& codes) { return {codes, scale.data(), zero_point.data()}; }

  testing::AssertionResult hold(const ChosenCodes& codes, const std::vector<Range>& ranges) {
    std::vector<float> scales;
    std::vector<int32_t> zero_points;
    for (const Range& range : ranges) {
      const QParams wanted = wanted_qparams(codes, range);
      scales.push_back(wanted.scale);
      zero_points.push_back(wanted.zero_point);
    }
    const auto result = scale.holds(scales);
    return result ? zero_point.holds(zero_points) : result;
  }

  int64_t count;
  Result<float> scale;
  Result<int32_t> zero_point;
};

template <class T>
PartsOfChannels<T> parts_of(const Fenced& x, const View& view, int64_t splits) {
  return {{}, x.as<T>(), view.channels, splits};
}

// Nothing written: no range has such a minimum.
constexpr Range kUnwritten = {12345, 54321, 77};

template <int kLanes, class T>
std::vector<Range> find_parts(const Fenced& x, const View& view, int64_t splits) {
  std::vector<Range> parts(static_cast<size_t>(splits * view.channels.count), kUnwritten);
  run_teams<kLanes>(parts_of<T>(x, view, splits), KeepPart{parts.data()});
  return parts;
}

// From `splits` parts.
template <int kLanes, class T>
testing::AssertionResult merges_as_defined(const Fenced& x, const View& view, int64_t splits,
                                           const ChosenCodes& codes,
                                           const std::vector<Range>& wanted) {
  const int64_t count = view.channels.count;
  const auto parts = find_parts<kLanes, T>(x, view, splits);
  Chosen chosen(count);
  run_teams<32>(RangesOfParts{{}, parts.data(), count, splits}, chosen.keep(codes));
  return chosen.hold(codes, wanted);
}

// In one go, in a few parts, and in more than there are values.
template <int kLanes, class T>
testing::AssertionResult chooses_as_defined(const std::vector<T>& x, const View& view,
                                            int64_t offset, const ChosenCodes& codes) {
  const Fenced memory = placed(x, offset);
  const std::vector<Range> wanted = ranges_of(x, view);
  Chosen chosen(view.channels.count);
  run_teams<kLanes>(parts_of<T>(memory, view, 1), chosen.keep(codes));
  auto result = chosen.hold(codes, wanted);
  const int64_t many = view.channels.count == 1 && view.size() < 300 ? view.size() + 2 : 7;
  for (const int64_t splits : {int64_t{1}, int64_t{2}, 3 + view.size() % 4, many}) {
    if (result) result = merges_as_defined<kLanes, T>(memory, view, splits, codes, wanted);
  }
  return result;
}

std::vector<View> views_of_ranges() {
  std::vector<View> views = all_views();
  views.push_back(one_channel(5000));
  views.push_back(token_view(3, 1031));
  views.push_back(channel_view(37, 3, 20));
  views.push_back(channel_view(300, 2, 1));
  for (const int64_t empty : {0, 1, 5}) views.push_back({{1, empty, 0, 0, 1}, {}});
  return views;
}

TEST(CudaRange, ChoosesTheParametersOfEveryChannelAsDefined) {
  const std::vector<View> views = views_of_ranges();
  for_each_float([&](auto value) {
    for (size_t v = 0; v < views.size(); ++v) {
      for (const bool finite : {true, false}) {
        const auto seed = static_cast<int64_t>(v);
        const auto x = samples<decltype(value)>(views[v].size(), seed, finite);
        const ChosenCodes& codes = kChosen[v % std::size(kChosen)];
        const int64_t offset = seed % kOffsets;
        ASSERT_TRUE(chooses_as_defined<1>(x, views[v], offset, codes)) << "view " << v;
        ASSERT_TRUE(chooses_as_defined<32>(x, views[v], offset, codes)) << "view " << v;
        ASSERT_TRUE(chooses_as_defined<256>(x, views[v], offset, codes)) << "view " << v;
      }
    }
  });
}

TEST(CudaRange, ChoosesForEveryLengthAtEveryAlignment) {
  for_each_float([&](auto value) {
    for (int64_t n = 0; n <= 70; ++n) {
      for (int64_t offset = 0; offset < kOffsets; ++offset) {
        const auto x = samples<decltype(value)>(n, n + offset, true);
        ASSERT_TRUE(chooses_as_defined<32>(x, one_channel(n), offset, kChosen[1]))
            << n << " at " << offset;
      }
    }
  });
}

// A value that is looked at by nobody may be any.
TEST(CudaRange, FindsTheExtremeInEveryPosition) {
  for (const View& view : {one_channel(300), channel_view(1, 3, 41), channel_view(7, 3, 5),
                           channel_view(3, 2, 40), group_view(3, 50, 16), token_view(4, 19)}) {
    for (int64_t i = 0; i < view.size(); ++i) {
      for (const float extreme : {1e30f, -1e30f, NAN, -INFINITY}) {
        std::vector<float> x(static_cast<size_t>(view.size()), 1.0f);
        x[static_cast<size_t>(i)] = extreme;
        ASSERT_TRUE(chooses_as_defined<32>(x, view, i % kOffsets, kChosen[i % 4])) << i;
      }
    }
  }
}

// The parts of a channel share its elements out evenly.
TEST(CudaRange, SplitsChannelsIntoParts) {
  constexpr int64_t kSize = 100, kSplits = 3, kPart = 34;
  const auto x = samples<float>(kSize, 1, true);
  const auto parts = find_parts<32, float>(placed(x, 1), one_channel(kSize), kSplits);
  for (int64_t part = 0; part < kSplits; ++part) {
    Range wanted = kEmptyRange;
    for (int64_t i = part * kPart; i < std::min(kSize, (part + 1) * kPart); ++i) {
      wanted = with(wanted, x[static_cast<size_t>(i)]);
    }
    ASSERT_TRUE(is_same(parts[static_cast<size_t>(part)], wanted)) << part;
  }
}

// Rows that are quantized by their own ranges, in groups.
struct RowsCase {
  int64_t rows;
  int64_t row;
  int64_t group;
  int64_t rows_of_x;  // rows that make up one of x, whose own lie `gap` more than that apart
  int64_t gap;
  int64_t q_gap;  // codes between the rows of q
  int64_t x_offset;
  int64_t q_offset;

  int64_t groups() const { return row == 0 ? 1 : (row + group - 1) / group; }
  int64_t x_row() const { return rows_of_x * row; }
  int64_t x_stride() const { return x_row() + gap; }
  int64_t at(int64_t r, int64_t k) const {
    return r / rows_of_x * x_stride() + r % rows_of_x * row + k;
  }
  int64_t x_extent() const { return rows == 0 ? 0 : at(rows - 1, row); }
  int64_t q_stride() const { return row + q_gap; }
};

template <class Code>
constexpr Code kUntouched = static_cast<Code>(0x5a5a5a5a);

// What is wanted, group by group.
template <class T, class Code>
struct WantedRows {
  WantedRows(const RowsCase& c, const std::vector<T>& x, const ChosenCodes& codes, int32_t shift)
      : q(static_cast<size_t>(c.rows * c.q_stride()), kUntouched<Code>) {
    for (int64_t r = 0; r < c.rows; ++r) {
      for (int64_t g = 0; g < c.groups(); ++g) {
        const int64_t begin = g * c.group, end = std::min(c.row, begin + c.group);
        Range range = kEmptyRange;
        for (int64_t k = begin; k < end; ++k) range = with(range, x[c.at(r, k)]);
        ranges.push_back(range);
        const QParams p = wanted_qparams(codes, range);
        for (int64_t k = begin; k < end; ++k) {
          const int32_t code = quantize_value(to_float(x[c.at(r, k)]), 1.0f / p.scale, p.zero_point,
                                              codes.quant_min, codes.quant_max);
          q[r * c.q_stride() + k] = static_cast<Code>(code - shift);
        }
      }
    }
  }

  std::vector<Code> q;
  std::vector<Range> ranges;
};

template <int kLanes, class T, class Code>
testing::AssertionResult quantizes_as_defined(const RowsCase& c, const std::vector<T>& x,
                                              const ChosenCodes& codes, int32_t shift) {
  const Fenced memory = placed(x, c.x_offset);
  const int64_t row = c.gap == 0 ? c.rows * c.row : c.x_row();
  const int64_t stride = c.gap == 0 ? row : c.x_stride();
  const GroupedRows all = {{memory.data(), row, stride}, c.rows, c.row, c.group, c.groups()};
  const Groups<T> groups = {{}, rows_of<T>(all.x), all};
  Chosen chosen(c.rows * c.groups());
  Result<Code> q(c.rows * c.q_stride(), c.q_offset);
  std::fill_n(q.data(), c.rows * c.q_stride(), kUntouched<Code>);
  run_teams<kLanes>(
      groups, QuantizeGroup<T, Code>{groups, q.data(), c.q_stride(), shift, chosen.keep(codes)});
  const WantedRows<T, Code> wanted(c, x, codes, shift);
  const auto result = q.holds(wanted.q);
  return result ? chosen.hold(codes, wanted.ranges) : result;
}

template <class T, class Code>
void expect_quantized(const RowsCase& c, const ChosenCodes& codes, int32_t shift) {
  for (const bool finite : {true, false}) {
    const auto x = samples<T>(c.x_extent(), c.row + c.q_offset, finite);
    ASSERT_TRUE((quantizes_as_defined<1, T, Code>(c, x, codes, shift)));
    ASSERT_TRUE((quantizes_as_defined<32, T, Code>(c, x, codes, shift)));
    ASSERT_TRUE((quantizes_as_defined<256, T, Code>(c, x, codes, shift)));
  }
}

template <class T, class Code>
void expect_quantized(const RowsCase& c) {
  const CodeRange range = codes_of<Code>();
  expect_quantized<T, Code>(c, {range.min, range.max, range.min < 0 && c.row % 2 == 0}, 0);
}

template <class Visit>
void for_each_pair(Visit visit) {
  for_each_float([&](auto value) { for_each_int([&](auto code) { visit(value, code); }); });
}

TEST(CudaQuantizeRows, QuantizesTokensOfEveryLength) {
  for_each_pair([](auto value, auto code) {
    for (const int64_t row : {0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 33, 64, 100, 300}) {
      for (const auto& [x_offset, q_offset] : {std::pair{0, 0}, {1, 0}, {0, 1}, {3, 3}, {5, 14}}) {
        const int64_t group = std::max<int64_t>(1, row);
        const RowsCase c = {3, row, group, 1, 0, 0, x_offset, q_offset};
        expect_quantized<decltype(value), decltype(code)>(c);
        ASSERT_FALSE(testing::Test::HasFatalFailure()) << row << " at " << x_offset;
      }
    }
  });
}

TEST(CudaQuantizeRows, QuantizesEveryGroupByItself) {
  for_each_pair([](auto value, auto code) {
    for (const auto& [row, group] : {std::pair{10, 4},
                                     {33, 16},
                                     {17, 5},
                                     {100, 32},
                                     {64, 16},
                                     {5, 1},
                                     {19, 17},
                                     {70, 64},
                                     {600, 280}}) {
      for (const int64_t rows : {0, 1, 3}) {
        const RowsCase c = {rows, row, group, 1, 0, 0, row % 3, rows};
        expect_quantized<decltype(value), decltype(code)>(c);
        ASSERT_FALSE(testing::Test::HasFatalFailure()) << row << " by " << group;
      }
    }
  });
}

TEST(CudaQuantizeRows, ReadsRowsThatLieApart) {
  for_each_pair([](auto value, auto code) {
    for (const int64_t row : {1, 5, 16, 32, 40}) {
      for (const int64_t gap : {-1, 1, 3, 8, 16}) {
        for (const int64_t rows_of_x : {1, 2, 3}) {
          for (const int64_t group : {row, int64_t{16}}) {
            const RowsCase c = {6, row, group, rows_of_x, gap, 0, row % 2, gap == 3 ? 1 : 0};
            expect_quantized<decltype(value), decltype(code)>(c);
            ASSERT_FALSE(testing::Test::HasFatalFailure()) << row << ", " << gap;
          }
        }
      }
    }
  });
}

// Expanded rows all lie in one place.
TEST(CudaQuantizeRows, ReadsOneRowOverAndOver) {
  for (const int64_t row : {1, 16, 21}) {
    expect_quantized<float, int8_t>({4, row, row, 1, -row, 0, 0, 0});
    expect_quantized<Half, uint8_t>({4, row, 8, 1, -row, 3, 1, 2});
  }
}

// Into the rows of a product, whose padding may be anything; less 128, which makes it int8.
TEST(CudaQuantizeRows, LeavesThePaddingOfItsCodesAlone) {
  for_each_float([](auto value) {
    for (int64_t row = 0; row <= 50; ++row) {
      const int64_t q_gap = row == 0 ? 16 : 15 - (row - 1) % 16;
      const RowsCase c = {3, row, std::max<int64_t>(1, row), 1, 0, q_gap, row % kOffsets, 0};
      expect_quantized<decltype(value), int8_t>(c, {0, 255, false}, 128);
      ASSERT_FALSE(testing::Test::HasFatalFailure()) << row;
    }
  });
}

}  // namespace
}  // namespace torchquant::kernels::cuda
