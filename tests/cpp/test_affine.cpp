// math/: the numeric contract and the half formats, value by value.
#include <gtest/gtest.h>

#include <climits>
#include <cmath>
#include <utility>

#include "math/half.h"

namespace torchquant {
namespace {

TEST(Quantize, RoundsTiesToEven) {
  EXPECT_EQ(quantize_value(0.5f, 1.0f, 3, 0, 255), 3);
  EXPECT_EQ(quantize_value(1.5f, 1.0f, 3, 0, 255), 5);
  EXPECT_EQ(quantize_value(-2.5f, 1.0f, 0, -128, 127), -2);
}

TEST(Quantize, SaturatesAtBothEndsAndAtInfinity) {
  EXPECT_EQ(quantize_value(3e38f, 1e6f, 255, 0, 255), 255);
  EXPECT_EQ(quantize_value(-INFINITY, 1.0f, -5, -128, 127), -128);
  EXPECT_EQ(quantize_value(INFINITY, 1.0f, 128, 0, 255), 255);
}

TEST(Quantize, NanGivesQuantMinWhateverTheZeroPoint) {
  for (const int32_t zero_point : {0, 7, 1 << 30, INT_MAX, INT_MIN}) {
    EXPECT_EQ(quantize_value(NAN, 1.0f, zero_point, -128, 127), -128) << zero_point;
    EXPECT_EQ(quantize_value(1.0f, NAN, zero_point, -128, 127), -128) << zero_point;
  }
}

TEST(Quantize, ExtremeZeroPointsDoNotOverflow) {
  EXPECT_EQ(quantize_value(-INFINITY, 1.0f, INT_MAX, -65536, 65535), -65536);
  EXPECT_EQ(quantize_value(INFINITY, 1.0f, INT_MIN, -65536, 65535), 65535);
  EXPECT_EQ(quantize_value(0.0f, 1.0f, INT_MAX, -128, 127), 127);
  EXPECT_EQ(quantize_value(0.0f, 1.0f, INT_MIN, -128, 127), -128);
}

TEST(Dequantize, SubtractsExactlyBeforeItRounds) {
  EXPECT_EQ(dequantize_value(127, -1, 0.5f), 64.0f);
  EXPECT_EQ(dequantize_value(INT_MAX, INT_MIN, 1.0f), 4294967295.0f);
  EXPECT_EQ(dequantize_value(16777217, 1, 1.0f), 16777216.0f);
}

void expect_slope(const FakeQuantizeSlope& slope, bool inside, float wanted) {
  EXPECT_EQ(slope.inside, inside);
  EXPECT_EQ(slope.slope, wanted);
}

TEST(FakeQuantizeSlope, IsWhatRoundingAddsInside) {
  expect_slope(fake_quantize_slope(1.25f, 1.0f, 3, 0, 255), true, -0.25f);
  expect_slope(fake_quantize_slope(1.5f, 1.0f, -7, -128, 127), true, 0.5f);
  expect_slope(fake_quantize_slope(-2.5f, 1.0f, 0, -128, 127), true, 0.5f);
  expect_slope(fake_quantize_slope(3.0f, 2.0f, 0, -128, 127), true, 0.0f);
}

TEST(FakeQuantizeSlope, IsTheDistanceOfTheBoundFromTheZeroPointOutside) {
  expect_slope(fake_quantize_slope(300.0f, 1.0f, 3, 0, 255), false, 252.0f);
  expect_slope(fake_quantize_slope(-4.0f, 1.0f, 3, 0, 255), false, -3.0f);
  expect_slope(fake_quantize_slope(INFINITY, 1.0f, -5, -128, 127), false, 132.0f);
  expect_slope(fake_quantize_slope(-INFINITY, 1.0f, -5, -128, 127), false, -123.0f);
}

TEST(FakeQuantizeSlope, ACodeIsInsideWhereItRoundsToABound) {
  expect_slope(fake_quantize_slope(-128.5f, 1.0f, 0, -128, 127), true, 0.5f);
  expect_slope(fake_quantize_slope(127.25f, 1.0f, 0, -128, 127), true, -0.25f);
  expect_slope(fake_quantize_slope(127.5f, 1.0f, 0, -128, 127), false, 127.0f);
}

TEST(FakeQuantizeSlope, IsNothingForNan) {
  expect_slope(fake_quantize_slope(NAN, 1.0f, 0, -128, 127), false, 0.0f);
  expect_slope(fake_quantize_slope(1.0f, NAN, 0, -128, 127), false, 0.0f);
  expect_slope(fake_quantize_slope(0.0f, INFINITY, 0, -128, 127), false, 0.0f);
}

TEST(FakeQuantizeSlope, ExtremeZeroPointsDoNotOverflow) {
  expect_slope(fake_quantize_slope(0.0f, 1.0f, INT_MAX, -128, 127), false, -2147483520.0f);
  expect_slope(fake_quantize_slope(0.0f, 1.0f, INT_MIN, -128, 127), false, 2147483520.0f);
  expect_slope(fake_quantize_slope(-0x1p31f, 1.0f, INT_MAX, -128, 127), true, 0.0f);
}

// Outside, the result is slope * scale, so that is what quantizing and dequantizing must give.
TEST(FakeQuantizeSlope, AgreesWithQuantizingAndDequantizing) {
  for (float x = -200.0f; x <= 200.0f; x += 0.125f) {
    const FakeQuantizeSlope at_x = fake_quantize_slope(x, 2.0f, 10, -128, 127);
    const int32_t q = quantize_value(x, 2.0f, 10, -128, 127);
    const float steps = dequantize_value(q, 10, 1.0f);
    EXPECT_EQ(at_x.slope, at_x.inside ? steps - x * 2.0f : steps) << x;
    EXPECT_EQ(at_x.inside, rintf(x * 2.0f) + 10 == q) << x;
  }
}

Range range_of(float low, float high) {
  return merge({low, low, bits_of(low) & 0x7fffffff}, {high, high, bits_of(high) & 0x7fffffff});
}

TEST(SymmetricQParams, DividesTheLargestMagnitude) {
  const QParams chosen = symmetric_qparams(range_of(-12.7f, 3.0f), -128, 127);
  EXPECT_EQ(chosen.scale, static_cast<float>(static_cast<double>(12.7f) / 127));
  EXPECT_EQ(chosen.zero_point, 0);
}

TEST(AffineQParams, WidensTheRangeToContainZero) {
  const QParams above = affine_qparams(range_of(5.0f, 10.0f), 0, 255);
  EXPECT_EQ(above.scale, static_cast<float>(10.0 / 255));
  EXPECT_EQ(above.zero_point, 0);
  const QParams below = affine_qparams(range_of(-10.0f, -5.0f), 0, 255);
  EXPECT_EQ(below.zero_point, 255);
}

TEST(QParams, AnEmptyOrZeroRangeHasScaleOne) {
  for (const Range& range : {kEmptyRange, range_of(-0.0f, 0.0f)}) {
    EXPECT_EQ(symmetric_qparams(range, -128, 127).scale, 1.0f);
    EXPECT_EQ(affine_qparams(range, 10, 20).scale, 1.0f);
    EXPECT_EQ(affine_qparams(range, 10, 20).zero_point, 10);
  }
}

TEST(QParams, NanAndInfinityGiveANanScale) {
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    EXPECT_TRUE(std::isnan(symmetric_qparams(range_of(1.0f, bad), -128, 127).scale));
    EXPECT_TRUE(std::isnan(affine_qparams(range_of(bad, 1.0f), 0, 255).scale));
  }
}

TEST(QParams, TheScaleStaysANormalFloat) {
  EXPECT_EQ(affine_qparams(range_of(0.0f, FLT_TRUE_MIN), 0, 255).scale, FLT_MIN);
  EXPECT_EQ(affine_qparams(range_of(-FLT_MAX, FLT_MAX), 0, 1).scale, FLT_MAX);
}

TEST(Half, EveryFiniteValueSurvivesARoundTrip) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    if ((half & 0x7c00) == 0x7c00 && (half & 0x3ff) != 0) continue;  // NaN
    ASSERT_EQ(float_to_half(half_to_float(half)), half) << bits;
  }
}

// Half the distance to the next float16 is a tie, which goes to the even one.
TEST(Half, RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const auto low = static_cast<uint16_t>(bits);
    const float middle = (half_to_float(low) + half_to_float(static_cast<uint16_t>(low + 1))) / 2;
    const uint16_t even = low % 2 == 0 ? low : static_cast<uint16_t>(low + 1);
    ASSERT_EQ(float_to_half(middle), even) << bits;
    ASSERT_EQ(float_to_half(std::nextafterf(middle, INFINITY)), low + 1) << bits;
    ASSERT_EQ(float_to_half(std::nextafterf(middle, 0.0f)), low) << bits;
  }
  EXPECT_EQ(float_to_half(65519.996f), 0x7bff);
  EXPECT_EQ(float_to_half(65520.0f), 0x7c00);
}

TEST(BFloat16, RoundsToNearestEvenAndKeepsNan) {
  EXPECT_EQ(float_to_bfloat16(float_of(0x3f808000)), 0x3f80);
  EXPECT_EQ(float_to_bfloat16(float_of(0x3f818000)), 0x3f82);
  EXPECT_EQ(float_to_bfloat16(float_of(0x3f808001)), 0x3f81);
  EXPECT_EQ(float_to_bfloat16(float_of(0x7fffffff)), 0x7fc0);
  EXPECT_EQ(float_to_bfloat16(-INFINITY), 0xff80);
}

// Where the zero point is narrow, the bounds, all between them, and what is left of NaN.
TEST(ClampNarrow, GivesTheCodesOfQuantizeValue) {
  const float values[] = {0.0f,    -0.0f, 0.5f,  -0.5f,  1.5f,  2.5f,     126.5f,    127.5f,
                          -128.5f, 1e9f,  -1e9f, 1e-40f, 3e38f, INFINITY, -INFINITY, NAN};
  const float inv_scales[] = {1.0f, 0.3f, -2.0f, 1e30f, 1e-30f, 0.0f, INFINITY, NAN};
  const int32_t zero_points[] = {0, 1, -7, 65535, -65536, kNarrowZeroPoint, -kNarrowZeroPoint};
  for (const auto& [low, high] : {std::pair{-128, 127}, {0, 255}, {-65536, 65535}}) {
    for (const int32_t zero_point : zero_points) {
      ASSERT_TRUE(is_narrow(zero_point));
      const auto from = static_cast<float>(low - zero_point);
      const auto to = static_cast<float>(high - zero_point);
      for (const float inv_scale : inv_scales) {
        for (const float x : values) {
          const auto steps = static_cast<int32_t>(rintf(clamp_narrow(x, inv_scale, from, to)));
          ASSERT_EQ(steps + zero_point, quantize_value(x, inv_scale, zero_point, low, high))
              << x << " * " << inv_scale << ", zero point " << zero_point;
        }
      }
    }
  }
  EXPECT_FALSE(is_narrow(kNarrowZeroPoint + 1));
  EXPECT_FALSE(is_narrow(INT32_MIN));
}

}  // namespace
}  // namespace torchquant
