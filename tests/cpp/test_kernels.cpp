// Elementwise kernels: every set equals the scalar one, byte for byte, at every length and at
// unaligned addresses, and the scalar one equals math/affine.h.
#include "kernel_sets.h"

namespace torchquant::kernels {
namespace {

INSTANTIATE_TEST_SUITE_P(Sets, EverySet, testing::ValuesIn(all_sets()), name_of);

TEST(Select, ListsTheBestFirstAndScalarLast) {
  EXPECT_STREQ(all_sets().back()->name, "scalar");
  EXPECT_EQ(all_sets().back(), &scalar());
}

TEST_P(EverySet, QuantizesASpanAsScalarDoes) {
  for (const Float from : kFloats) {
    for (const Int to : kInts) {
      const CodeRange codes = range_of(to);
      for (int64_t n = 0; n <= kLongest; ++n) {
        const auto x = floats(from, n, static_cast<uint32_t>(n));
        const QuantizeParams params = {1 / 0.37f, codes.min + 5, codes.min, codes.max};
        Guarded ours(n * size_of(to)), scalars(n * size_of(to));
        set().quantize.span(x.data() + 1, from, ours.data(), to, n, params);
        scalar().quantize.span(x.data() + 1, from, scalars.data(), to, n, params);
        ASSERT_EQ(ours.content(), scalars.content()) << n;
        ASSERT_TRUE(ours.intact()) << n;
      }
    }
  }
}

TEST_P(EverySet, QuantizesColumnsAsScalarDoes) {
  for (const Float from : kFloats) {
    for (const Int to : kInts) {
      const CodeRange codes = range_of(to);
      for (int64_t n = 0; n <= kLongest; ++n) {
        const auto x = floats(from, n, static_cast<uint32_t>(n));
        std::vector<float> inv_scale(n);
        std::vector<int32_t> zero_point(n);
        for (int64_t i = 0; i < n; ++i) {
          inv_scale[i] = 0.1f * static_cast<float>(i % 50);
          zero_point[i] = static_cast<int32_t>(i * 7919 % 600) - 300;
        }
        Guarded ours(n * size_of(to)), scalars(n * size_of(to));
        set().quantize.columns(x.data() + 1, from, ours.data(), to, n, inv_scale.data(),
                               zero_point.data(), codes.min, codes.max);
        scalar().quantize.columns(x.data() + 1, from, scalars.data(), to, n, inv_scale.data(),
                                  zero_point.data(), codes.min, codes.max);
        ASSERT_EQ(ours.content(), scalars.content()) << n;
        ASSERT_TRUE(ours.intact()) << n;
      }
    }
  }
}

TEST_P(EverySet, QuantizesAtTheLargestVectorZeroPoint) {
  for (const int32_t zero_point : {kVectorZeroPoint, -kVectorZeroPoint}) {
    const auto x = floats(Float::f32, kLongest, 3);
    Guarded ours(kLongest * 4), scalars(kLongest * 4);
    for (const float inv_scale : {1.0f, 1e5f}) {
      const QuantizeParams params = {inv_scale, zero_point, -65536, 65535};
      set().quantize.span(x.data() + 1, Float::f32, ours.data(), Int::i32, kLongest, params);
      scalar().quantize.span(x.data() + 1, Float::f32, scalars.data(), Int::i32, kLongest, params);
      ASSERT_EQ(ours.content(), scalars.content());
    }
  }
}

TEST_P(EverySet, DequantizesAsScalarDoes) {
  for (const Int from : kInts) {
    for (const Float to : kFloats) {
      for (int64_t n = 0; n <= kLongest; ++n) {
        const auto q = random_bytes(1 + n * static_cast<int64_t>(size_of(from)), 5);
        std::vector<float> scale(n);
        std::vector<int32_t> zero_point(n);
        for (int64_t i = 0; i < n; ++i) {
          scale[i] = i % 40 == 0 ? NAN : 1e-7f * static_cast<float>(i * i * i);
          zero_point[i] = static_cast<int32_t>(i * 104729 % 60000) - 30000;
        }
        Guarded ours(n * size_of(to)), scalars(n * size_of(to));
        set().dequantize.span(q.data() + 1, from, ours.data(), to, n, 0.0371f, -77);
        scalar().dequantize.span(q.data() + 1, from, scalars.data(), to, n, 0.0371f, -77);
        ASSERT_EQ(ours.content(), scalars.content()) << n;
        set().dequantize.columns(q.data() + 1, from, ours.data(), to, n, scale.data(),
                                 zero_point.data());
        scalar().dequantize.columns(q.data() + 1, from, scalars.data(), to, n, scale.data(),
                                    zero_point.data());
        ASSERT_EQ(ours.content(), scalars.content()) << n;
        ASSERT_TRUE(ours.intact()) << n;
      }
    }
  }
}

TEST(Scalar, IsAffineHValueByValue) {
  const auto bytes = floats(Float::f32, kLongest, 11);
  std::vector<int8_t> q(kLongest);
  scalar().quantize.span(bytes.data() + 1, Float::f32, q.data(), Int::i8, kLongest,
                         {2.0f, 3, -128, 127});
  std::vector<float> x(kLongest), back(kLongest);
  std::memcpy(x.data(), bytes.data() + 1, kLongest * sizeof(float));
  scalar().dequantize.span(q.data(), Int::i8, back.data(), Float::f32, kLongest, 0.5f, 3);
  for (int64_t i = 0; i < kLongest; ++i) {
    ASSERT_EQ(q[i], quantize_value(x[i], 2.0f, 3, -128, 127)) << x[i];
    ASSERT_EQ(back[i], static_cast<float>(q[i] - 3) * 0.5f);
  }
}

void expect_same(const Range& a, const Range& b) {
  ASSERT_EQ(a.absmax_bits, b.absmax_bits);
  if (a.absmax_bits >= kInfinityBits) return;  // min and max mean nothing beside a NaN
  ASSERT_EQ(a.min, b.min);
  ASSERT_EQ(a.max, b.max);
}

TEST_P(EverySet, FindsTheRangeAsScalarDoes) {
  for (const Float type : kFloats) {
    for (const bool finite : {true, false}) {
      for (int64_t n = 0; n <= kLongest; ++n) {
        const auto x = floats(type, n, static_cast<uint32_t>(n), finite);
        expect_same(set().range.span(x.data() + 1, type, n),
                    scalar().range.span(x.data() + 1, type, n));
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

TEST_P(EverySet, FindsTheRangeOfColumnsAsScalarDoes) {
  constexpr int64_t kRows = 5;
  for (const Float type : kFloats) {
    for (int64_t columns = 0; columns <= kLongest; ++columns) {
      const auto x = floats(type, kRows * columns, static_cast<uint32_t>(columns), true);
      std::vector<float> min[2], max[2];
      std::vector<uint32_t> bits[2];
      for (const int i : {0, 1}) {
        min[i].assign(columns, kEmptyRange.min);
        max[i].assign(columns, kEmptyRange.max);
        bits[i].assign(columns, 0);
        (i == 0 ? set() : scalar())
            .range.columns(x.data() + 1, type, kRows, columns, min[i].data(), max[i].data(),
                           bits[i].data());
      }
      ASSERT_EQ(min[0], min[1]);
      ASSERT_EQ(max[0], max[1]);
      ASSERT_EQ(bits[0], bits[1]);
    }
  }
}

template <class T>
void expect_same_errors(ErrorSums (*ours)(const T*, const T*, int64_t),
                        ErrorSums (*scalars)(const T*, const T*, int64_t)) {
  std::mt19937 random(17);
  std::normal_distribution<double> normal(0, 3);
  std::vector<int64_t> lengths = {kErrorBlock - 1, kErrorBlock};
  for (int64_t n = 0; n <= kLongest; ++n) lengths.push_back(n);
  for (const int64_t n : lengths) {
    std::vector<T> x(n), y(n);
    for (int64_t i = 0; i < n; ++i) x[i] = static_cast<T>(normal(random));
    for (int64_t i = 0; i < n; ++i) y[i] = static_cast<T>(std::round(x[i]));
    const ErrorSums a = ours(x.data(), y.data(), n), b = scalars(x.data(), y.data(), n);
    ASSERT_EQ(std::memcmp(&a, &b, sizeof(a)), 0) << n;
  }
}

TEST_P(EverySet, SumsErrorsInTheSameLanesAsScalar) {
  expect_same_errors(set().error.f32, scalar().error.f32);
  expect_same_errors(set().error.f64, scalar().error.f64);
}

TEST_P(EverySet, ANanErrorIsTheGreatestError) {
  std::vector<float> x(100, 1.0f), y(100, 2.0f);
  x[37] = NAN;
  EXPECT_TRUE(std::isnan(set().error.f32(x.data(), y.data(), 100).max_error));
}

}  // namespace
}  // namespace torchquant::kernels
