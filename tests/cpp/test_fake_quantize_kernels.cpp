// fake_quantize and its backward: every set equals the scalar one, byte for byte, and the scalar
// one equals math/affine.h.
#include <climits>

#include "kernel_sets.h"

namespace torchquant::kernels {
namespace {

using EverySetFakeQuantize = EverySet;
INSTANTIATE_TEST_SUITE_P(Sets, EverySetFakeQuantize, testing::ValuesIn(all_sets()), name_of);

constexpr CodeRange kCodes[] = {{-128, 127}, {0, 255}, {0, 3}, {-65536, 65535}};

const CodeRange& codes_for(int64_t n) { return kCodes[n % std::size(kCodes)]; }

TEST_P(EverySetFakeQuantize, FakeQuantizesRunsAsScalarDoes) {
  for (const Float type : kFloats) {
    for (int64_t n = 0; n <= kLongest; ++n) {
      const Fenced x = floats(type, kRuns * n, n);
      const Channels channels(kRuns, codes_for(n), n);
      const auto fake_quantize = [&](const Kernels& kernels, void* y) {
        kernels.fake_quantize.runs(x.data(), type, y, kRuns, n, channels.params());
      };
      ASSERT_TRUE(writes_as_scalar(set(), kRuns * n * size_of(type), fake_quantize)) << n;
    }
  }
}

TEST_P(EverySetFakeQuantize, FakeQuantizesColumnsAsScalarDoes) {
  for (const Float type : kFloats) {
    for (int64_t n = 0; n <= kLongest; ++n) {
      const Fenced x = floats(type, n, n);
      const Channels channels(n, codes_for(n), n);
      const auto fake_quantize = [&](const Kernels& kernels, void* y) {
        kernels.fake_quantize.columns(x.data(), type, y, n, channels.params());
      };
      ASSERT_TRUE(writes_as_scalar(set(), n * size_of(type), fake_quantize)) << n;
    }
  }
}

TEST_P(EverySetFakeQuantize, PassesGradientsOfRunsAsScalarDoes) {
  for (const Float type : kFloats) {
    for (int64_t n = 0; n <= kLongest; ++n) {
      const Fenced x = floats(type, kRuns * n, n), output = floats(type, kRuns * n, n + 1);
      const Channels channels(kRuns, codes_for(n), n);
      const auto backward = [&](const Kernels& kernels, void* input) {
        kernels.fake_quantize.backward_runs({output.data(), x.data(), input, type}, kRuns, n,
                                            channels.params());
      };
      ASSERT_TRUE(writes_as_scalar(set(), kRuns * n * size_of(type), backward)) << n;
    }
  }
}

TEST_P(EverySetFakeQuantize, PassesGradientsOfColumnsAsScalarDoes) {
  for (const Float type : kFloats) {
    for (int64_t n = 0; n <= kLongest; ++n) {
      const Fenced x = floats(type, n, n), output = floats(type, n, n + 1);
      const Channels channels(n, codes_for(n), n);
      const auto backward = [&](const Kernels& kernels, void* input) {
        kernels.fake_quantize.backward_columns({output.data(), x.data(), input, type}, n,
                                               channels.params());
      };
      ASSERT_TRUE(writes_as_scalar(set(), n * size_of(type), backward)) << n;
    }
  }
}

// Infinite gradients hide what else is summed up.
TEST_P(EverySetFakeQuantize, SumsSlopesInTheSameLanesAsScalar) {
  for (const Float type : kFloats) {
    for (const bool finite : {true, false}) {
      for (const int64_t n : block_lengths()) {
        const Fenced x = floats(type, n, n), output = floats(type, n, n + 1, finite);
        const Channels channel(1, codes_for(n), n);
        std::vector<double> sums;
        const auto backward = [&](const Kernels& kernels, void* input) {
          sums.push_back(kernels.fake_quantize.slope_block({output.data(), x.data(), input, type},
                                                           n, channel.params()));
        };
        ASSERT_TRUE(writes_as_scalar(set(), n * size_of(type), backward)) << n;
        ASSERT_TRUE(is_same_sum(sums[0], sums[1])) << n;
      }
    }
  }
}

// A matrix whose rows lie apart, and the gradients of its fake-quantized values.
struct Matrix {
  Matrix(Float type, int64_t rows, int64_t columns, bool finite)
      : type(type),
        rows(rows),
        columns(columns),
        stride(columns + 3),
        count(rows == 0 ? 0 : (rows - 1) * stride + columns),
        x(floats(type, count, columns)),
        output(floats(type, count, columns + 1, finite)),
        channels(columns, codes_for(columns), columns) {}

  // The sums, without their padding, after kernels have added to them.
  std::vector<double> add_slopes(const Kernels& kernels, void* input) const {
    const int64_t padded = padded_columns(columns);
    std::vector<double> start(kSumLanes * padded);
    for (size_t i = 0; i < start.size(); ++i) start[i] = 0.1 * static_cast<double>(i);
    Fenced sums(start, 0);
    kernels.fake_quantize.slope_columns({output.data(), x.data(), input, type}, rows, stride,
                                        columns, channels.params(), sums.as<double>());
    std::vector<double> added;
    for (int64_t lane = 0; lane < kSumLanes; ++lane) {
      for (int64_t j = 0; j < columns; ++j) {
        added.push_back(sums.as<double>()[lane * padded + j]);
      }
    }
    return added;
  }

  Float type;
  int64_t rows, columns, stride, count;
  Fenced x, output;
  Channels channels;
};

TEST_P(EverySetFakeQuantize, SumsSlopesOfColumnsInTheSameLanesAsScalar) {
  for (const Float type : kFloats) {
    for (const int64_t rows : {0, 1, 3, 4, 6, 37}) {
      for (int64_t columns = 1; columns <= 40; ++columns) {
        const Matrix matrix(type, rows, columns, columns % 4 != 0);
        std::vector<std::vector<double>> sums;
        const auto backward = [&](const Kernels& kernels, void* input) {
          sums.push_back(matrix.add_slopes(kernels, input));
        };
        ASSERT_TRUE(writes_as_scalar(set(), matrix.count * size_of(type), backward)) << columns;
        ASSERT_TRUE(std::equal(sums[0].begin(), sums[0].end(), sums[1].begin(),
                               [](double a, double b) { return is_same_sum(a, b); }))
            << rows << " x " << columns;
      }
    }
  }
}

// Parameters that vector kernels are never given.
struct AnyZeroPoint {
  int32_t zero_point;
  float scale;
  ChannelParams params() const { return {&scale, &zero_point, -128, 127}; }
  FakeQuantizeSlope slope_at(float x) const {
    return fake_quantize_slope(x, 1.0f / scale, zero_point, -128, 127);
  }
};

std::vector<AnyZeroPoint> any_zero_points() {
  std::vector<AnyZeroPoint> all;
  for (const int32_t zero_point : {0, -77, 127, 1 << 24, INT_MAX, INT_MIN}) {
    for (const float scale : {0.5f, 3.0f, 0.0f, 1e-40f, INFINITY, NAN}) {
      all.push_back({zero_point, scale});
    }
  }
  return all;
}

TEST(Scalar, FakeQuantizesAsQuantizingAndDequantizing) {
  for (const Float type : kFloats) {
    const Fenced x = floats(type, kLongest, 21);
    std::vector<uint8_t> y(kLongest * size_of(type)), wanted = y;
    for (const AnyZeroPoint& any : any_zero_points()) {
      scalar().fake_quantize.runs(x.data(), type, y.data(), 1, kLongest, any.params());
      with_type(type, [&](auto element) {
        for (int64_t i = 0; i < kLongest; ++i) {
          const int32_t q = quantize_value(float_at(x.data(), type, i), 1.0f / any.scale,
                                           any.zero_point, -128, 127);
          store(wanted.data(), i,
                from_float<decltype(element)>(dequantize_value(q, any.zero_point, any.scale)));
        }
      });
      ASSERT_EQ(y, wanted) << any.zero_point << ", " << any.scale;
    }
  }
}

TEST(Scalar, PassesGradientsAsAffineHSays) {
  for (const Float type : kFloats) {
    const Fenced x = floats(type, kLongest, 22), output = floats(type, kLongest, 23);
    std::vector<uint8_t> input(kLongest * size_of(type));
    for (const AnyZeroPoint& any : any_zero_points()) {
      scalar().fake_quantize.backward_runs({output.data(), x.data(), input.data(), type}, 1,
                                           kLongest, any.params());
      for (int64_t i = 0; i < kLongest; ++i) {
        const bool inside = any.slope_at(float_at(x.data(), type, i)).inside;
        const float wanted = inside ? float_at(output.data(), type, i) : 0.0f;
        ASSERT_EQ(bits_of(float_at(input.data(), type, i)), bits_of(wanted)) << i;
      }
    }
  }
}

TEST(Scalar, SumsSlopesInSixteenLanes) {
  for (const Float type : kFloats) {
    for (const int64_t n : {INT64_C(5), kLongest, kSumBlock}) {
      const Fenced x = floats(type, n, 24), output = floats(type, n, 25, true);
      std::vector<uint8_t> input(n * size_of(type));
      for (const AnyZeroPoint& any : any_zero_points()) {
        const double sum = scalar().fake_quantize.slope_block(
            {output.data(), x.data(), input.data(), type}, n, any.params());
        double lanes[16] = {}, wanted = 0;
        for (int64_t i = 0; i < n; ++i) {
          const double gradient = float_at(output.data(), type, i);
          lanes[i % 16] += gradient * any.slope_at(float_at(x.data(), type, i)).slope;
        }
        for (const double lane : lanes) wanted += lane;
        ASSERT_TRUE(is_same_sum(sum, wanted)) << any.zero_point << ", " << any.scale;
      }
    }
  }
}

TEST(Scalar, SumsSlopesOfAColumnAsOfABlock) {
  for (const AnyZeroPoint& any : any_zero_points()) {
    const Fenced x = floats(Float::f32, kLongest, 26),
                 output = floats(Float::f32, kLongest, 27, true);
    std::vector<float> column(kLongest), block(kLongest);
    std::vector<double> sums(kSumLanes * padded_columns(1));
    scalar().fake_quantize.slope_columns({output.data(), x.data(), column.data(), Float::f32},
                                         kLongest, 1, 1, any.params(), sums.data());
    const double wanted = scalar().fake_quantize.slope_block(
        {output.data(), x.data(), block.data(), Float::f32}, kLongest, any.params());
    double sum = 0;
    for (int64_t lane = 0; lane < kSumLanes; ++lane) sum += sums[lane * padded_columns(1)];
    ASSERT_TRUE(is_same_sum(sum, wanted)) << any.zero_point << ", " << any.scale;
    ASSERT_EQ(std::memcmp(column.data(), block.data(), kLongest * sizeof(float)), 0);
  }
}

}  // namespace
}  // namespace torchquant::kernels
