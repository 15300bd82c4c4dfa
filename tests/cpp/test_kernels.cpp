// Elementwise kernels and sums: every set equals the scalar one, byte for byte, at every length and
// at unaligned addresses, and the scalar one equals math/affine.h.
#include "kernel_sets.h"

namespace torchquant::kernels {
namespace {

INSTANTIATE_TEST_SUITE_P(Sets, EverySet, testing::ValuesIn(all_sets()), name_of);

TEST(Select, ListsTheBestFirstAndScalarLast) {
  EXPECT_STREQ(all_sets().back()->name, "scalar");
  EXPECT_EQ(all_sets().back(), &scalar());
}

TEST_P(EverySet, QuantizesRunsAsScalarDoes) {
  for (const Float from : kFloats) {
    for (const Int to : kInts) {
      for (int64_t n = 0; n <= kLongest; ++n) {
        const Fenced x = floats(from, kRuns * n, n);
        const Channels channels(kRuns, range_of(to), n);
        const auto quantize = [&](const Kernels& kernels, void* q) {
          kernels.quantize.runs(x.data(), from, q, to, kRuns, n, channels.params());
        };
        ASSERT_TRUE(writes_as_scalar(set(), kRuns * n * size_of(to), quantize)) << n;
      }
    }
  }
}

TEST_P(EverySet, QuantizesColumnsAsScalarDoes) {
  for (const Float from : kFloats) {
    for (const Int to : kInts) {
      for (int64_t n = 0; n <= kLongest; ++n) {
        const Fenced x = floats(from, n, n);
        const Channels channels(n, range_of(to), n);
        const auto quantize = [&](const Kernels& kernels, void* q) {
          kernels.quantize.columns(x.data(), from, q, to, n, channels.params());
        };
        ASSERT_TRUE(writes_as_scalar(set(), n * size_of(to), quantize)) << n;
      }
    }
  }
}

TEST_P(EverySet, DequantizesRunsAsScalarDoes) {
  for (const Int from : kInts) {
    for (const Float to : kFloats) {
      for (int64_t n = 0; n <= kLongest; ++n) {
        const Fenced q = random_codes(from, kRuns * n, n);
        const Channels channels(kRuns, range_of(from), n);
        const auto dequantize = [&](const Kernels& kernels, void* x) {
          kernels.dequantize.runs(q.data(), from, x, to, kRuns, n, channels.scale(),
                                  channels.zero_point());
        };
        ASSERT_TRUE(writes_as_scalar(set(), kRuns * n * size_of(to), dequantize)) << n;
      }
    }
  }
}

TEST_P(EverySet, DequantizesColumnsAsScalarDoes) {
  for (const Int from : kInts) {
    for (const Float to : kFloats) {
      for (int64_t n = 0; n <= kLongest; ++n) {
        const Fenced q = random_codes(from, n, n);
        const Channels channels(n, range_of(from), n);
        const auto dequantize = [&](const Kernels& kernels, void* x) {
          kernels.dequantize.columns(q.data(), from, x, to, n, channels.scale(),
                                     channels.zero_point());
        };
        ASSERT_TRUE(writes_as_scalar(set(), n * size_of(to), dequantize)) << n;
      }
    }
  }
}

TEST(Scalar, QuantizesAndDequantizesAsAffineHDoes) {
  for (const Float type : kFloats) {
    const Fenced x = floats(type, kLongest, 11);
    const Channels channels(kLongest, {-128, 127}, 12);
    std::vector<int8_t> q(kLongest);
    std::vector<float> back(kLongest);
    scalar().quantize.columns(x.data(), type, q.data(), Int::i8, kLongest, channels.params());
    scalar().dequantize.columns(q.data(), Int::i8, back.data(), Float::f32, kLongest,
                                channels.scale(), channels.zero_point());
    for (int64_t i = 0; i < kLongest; ++i) {
      const auto scale = load<float>(channels.scale(), i);
      const auto zero_point = load<int32_t>(channels.zero_point(), i);
      const float value = float_at(x.data(), type, i);
      ASSERT_EQ(q[i], quantize_value(value, 1.0f / scale, zero_point, -128, 127)) << value;
      ASSERT_EQ(bits_of(back[i]), bits_of(dequantize_value(q[i], zero_point, scale))) << q[i];
    }
  }
}

// Beside NaN and Inf min and max mean nothing, and which zero is the smaller one does not matter.
bool is_same(const Range& a, const Range& b) {
  if (a.absmax_bits != b.absmax_bits) return false;
  return a.absmax_bits >= kInfinityBits || (a.min == b.min && a.max == b.max);
}

// What ranges are merged with.
const Range kMerged[kRuns] = {
    kEmptyRange, {-20.0f, 3.0f, bits_of(20.0f)}, {0.0f, 1e30f, bits_of(1e30f)}};

TEST_P(EverySet, FindsTheRangeAsScalarDoes) {
  for (const Float type : kFloats) {
    for (const bool finite : {true, false}) {
      for (int64_t n = 0; n <= kLongest; ++n) {
        const Fenced x = floats(type, n, n, finite);
        ASSERT_TRUE(
            is_same(set().range.span(x.data(), type, n), scalar().range.span(x.data(), type, n)))
            << n;
      }
    }
  }
}

TEST_P(EverySet, MergesTheRangesOfRunsAsScalarDoes) {
  for (const Float type : kFloats) {
    for (const bool finite : {true, false}) {
      for (int64_t n = 0; n <= kLongest; ++n) {
        const Fenced x = floats(type, kRuns * n, n, finite);
        std::vector<Range> ours(kMerged, kMerged + kRuns), scalars = ours;
        set().range.runs(x.data(), type, kRuns, n, ours.data());
        scalar().range.runs(x.data(), type, kRuns, n, scalars.data());
        for (int64_t r = 0; r < kRuns; ++r) ASSERT_TRUE(is_same(ours[r], scalars[r])) << n;
      }
    }
  }
}

TEST_P(EverySet, FindsAnInfinityOrNanInEveryPosition) {
  for (const float bad : {NAN, -NAN, INFINITY, -INFINITY}) {
    for (int64_t n = 1; n <= 40; ++n) {
      for (int64_t i = 0; i < n; ++i) {
        std::vector<float> x(n, 1.0f);
        x[i] = bad;
        ASSERT_GE(set().range.span(x.data(), Float::f32, n).absmax_bits, kInfinityBits);
      }
    }
  }
}

// The ranges of columns in arrays, as kernels merge them.
struct ColumnRanges {
  explicit ColumnRanges(int64_t columns)
      : min(each(columns, &Range::min), 0),
        max(each(columns, &Range::max), 0),
        absmax_bits(each(columns, &Range::absmax_bits), 0) {}

  Range of(int64_t column) const {
    return {min.as<float>()[column], max.as<float>()[column], absmax_bits.as<uint32_t>()[column]};
  }

  template <class T>
  static std::vector<T> each(int64_t columns, T Range::* part) {
    std::vector<T> parts(columns);
    for (int64_t j = 0; j < columns; ++j) parts[j] = kMerged[j % kRuns].*part;
    return parts;
  }

  Fenced min, max, absmax_bits;
};

TEST_P(EverySet, MergesTheRangesOfColumnsAsScalarDoes) {
  for (const Float type : kFloats) {
    for (const int64_t rows : {0, 1, 3, 4, 6}) {
      for (int64_t columns = 1; columns <= kLongest; ++columns) {
        const int64_t stride = columns + 2;
        const Fenced x = floats(type, rows == 0 ? 0 : (rows - 1) * stride + columns, columns);
        ColumnRanges ours(columns), scalars(columns);
        set().range.columns(x.data(), type, rows, stride, columns, ours.min.as<float>(),
                            ours.max.as<float>(), ours.absmax_bits.as<uint32_t>());
        scalar().range.columns(x.data(), type, rows, stride, columns, scalars.min.as<float>(),
                               scalars.max.as<float>(), scalars.absmax_bits.as<uint32_t>());
        for (int64_t j = 0; j < columns; ++j) {
          ASSERT_TRUE(is_same(ours.of(j), scalars.of(j))) << rows << " rows, column " << j;
        }
      }
    }
  }
}

std::vector<Range> ranges_to_choose_for() {
  std::vector<Range> ranges = {kEmptyRange};
  const float special[] = {0.0f, -0.0f, 1e-45f, -1e-38f, 3.0f, -5.0f, 3e38f, INFINITY, -NAN};
  for (const float a : special) {
    for (const float b : special) {
      ranges.push_back(merge({a, a, bits_of(std::fabs(a))}, {b, b, bits_of(std::fabs(b))}));
    }
  }
  return ranges;
}

TEST_P(EverySet, ChoosesQParamsAsAffineHDoes) {
  const std::vector<Range> ranges = ranges_to_choose_for();
  const auto n = static_cast<int64_t>(ranges.size());
  for (const CodeRange& codes : {CodeRange{-128, 127}, {0, 255}, {-8, 7}, {-65536, 65535}}) {
    for (const bool symmetric : {true, false}) {
      std::vector<float> scale(n);
      std::vector<int32_t> zero_point(n);
      set().range.choose(ranges.data(), n, {codes.min, codes.max, symmetric}, scale.data(),
                         zero_point.data());
      for (int64_t i = 0; i < n; ++i) {
        const QParams wanted = symmetric ? symmetric_qparams(ranges[i], codes.min, codes.max)
                                         : affine_qparams(ranges[i], codes.min, codes.max);
        ASSERT_EQ(bits_of(scale[i]), bits_of(wanted.scale)) << ranges[i].min << ranges[i].max;
        ASSERT_EQ(zero_point[i], wanted.zero_point) << ranges[i].min << ", " << ranges[i].max;
      }
    }
  }
}

bool is_same(const ErrorSums& a, const ErrorSums& b) {
  return is_same_sum(a.max_error, b.max_error) && is_same_sum(a.absolute, b.absolute) &&
         is_same_sum(a.squared, b.squared) && is_same_sum(a.signal, b.signal);
}

TEST_P(EverySet, SumsErrorsInTheSameLanesAsScalar) {
  for (const Float from : kFloats) {
    for (const Float to : kFloats) {
      for (const bool finite : {true, false}) {
        for (const int64_t n : block_lengths()) {
          const Fenced x = floats(from, n, n, finite), y = floats(to, n, n + 1, finite);
          ASSERT_TRUE(is_same(set().error.floats(x.data(), from, y.data(), to, n),
                              scalar().error.floats(x.data(), from, y.data(), to, n)))
              << n;
        }
      }
    }
  }
}

// Values that float32 does not hold.
Fenced doubles(int64_t count, int64_t seed, bool finite) {
  const Fenced x = floats(Float::f32, count, seed, finite);
  std::vector<double> values(count);
  for (int64_t i = 0; i < count; ++i) values[i] = 1.1 * load<float>(x.data(), i);
  return Fenced(values);
}

TEST_P(EverySet, SumsErrorsOfDoublesInTheSameLanesAsScalar) {
  for (const bool finite : {true, false}) {
    for (const int64_t n : block_lengths()) {
      const Fenced x = doubles(n, n, finite), y = doubles(n, n + 1, finite);
      ASSERT_TRUE(is_same(set().error.doubles(x.as<double>(), y.as<double>(), n),
                          scalar().error.doubles(x.as<double>(), y.as<double>(), n)))
          << n;
    }
  }
}

TEST_P(EverySet, ANanErrorIsTheGreatestError) {
  std::vector<float> x(100, 1.0f), y(100, 2.0f);
  x[37] = NAN;
  const ErrorSums sums = set().error.floats(x.data(), Float::f32, y.data(), Float::f32, 100);
  EXPECT_TRUE(std::isnan(sums.max_error));
}

}  // namespace
}  // namespace torchquant::kernels
