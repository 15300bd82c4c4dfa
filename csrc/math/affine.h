// The numeric contract, one value at a time: real = scale * (q - zero_point). docs/numerics.md
// explains it. Shared by every backend and the tests, so: C names of <math.h> only (std:: overloads
// are weak symbols at -O0), everything static, no fused multiply-add (-ffp-contract=off).
#pragma once

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__CUDACC__)
#define TORCHQUANT_HOST_DEVICE __host__ __device__
#else
#define TORCHQUANT_HOST_DEVICE
#endif

namespace torchquant {

struct QParams {
  float scale;
  int32_t zero_point;
};

// What choosing qparams needs to know of some values. The bits of the largest |x| are compared as
// integers: NaN and Inf order above every finite value and so stay in the result.
struct Range {
  float min;
  float max;
  uint32_t absmax_bits;
};

static constexpr uint32_t kInfinityBits = 0x7f800000;
static constexpr Range kEmptyRange = {INFINITY, -INFINITY, 0};

TORCHQUANT_HOST_DEVICE static inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}

TORCHQUANT_HOST_DEVICE static inline float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

TORCHQUANT_HOST_DEVICE static inline Range merge(Range a, Range b) {
  return {a.min < b.min ? a.min : b.min, a.max > b.max ? a.max : b.max,
          a.absmax_bits > b.absmax_bits ? a.absmax_bits : b.absmax_bits};
}

TORCHQUANT_HOST_DEVICE static inline int32_t clamp_int(int64_t q, int32_t quant_min,
                                                       int32_t quant_max) {
  return static_cast<int32_t>(q < quant_min ? quant_min : q > quant_max ? quant_max : q);
}

// q = clamp(round_half_even(x * inv_scale) + zero_point), clamped as a float before rounding, so
// that no conversion overflows, and once more as an integer, because the float bounds are rounded
// when zero_point is beyond 2^24. NaN gives quant_min.
TORCHQUANT_HOST_DEVICE static inline int32_t quantize_value(float x, float inv_scale,
                                                            int32_t zero_point, int32_t quant_min,
                                                            int32_t quant_max) {
  const float low = static_cast<float>(static_cast<int64_t>(quant_min) - zero_point);
  const float high = static_cast<float>(static_cast<int64_t>(quant_max) - zero_point);
  float v = x * inv_scale;
  if (v != v) return quant_min;
  v = v > low ? v : low;
  v = v < high ? v : high;
  return clamp_int(static_cast<int64_t>(rintf(v)) + zero_point, quant_min, quant_max);
}

// For zero points up to this magnitude the bounds of quantize_value are exact floats, and
// everything behind it fits int32 and float32: the same results for less.
static constexpr int32_t kNarrowZeroPoint = 1 << 23;

TORCHQUANT_HOST_DEVICE static inline bool is_narrow(int32_t zero_point) {
  return -kNarrowZeroPoint <= zero_point && zero_point <= kNarrowZeroPoint;
}

// quantize_value before it is rounded, less the zero point, for a narrow one: `low` and `high` are
// quant_min - zero_point and quant_max - zero_point. fmaxf takes `low` where the other is NaN.
TORCHQUANT_HOST_DEVICE static inline float clamp_narrow(float x, float inv_scale, float low,
                                                        float high) {
  return fminf(fmaxf(x * inv_scale, low), high);
}

// x = (q - zero_point) * scale: the difference is exact, its conversion and the product round.
TORCHQUANT_HOST_DEVICE static inline float dequantize_value(int32_t q, int32_t zero_point,
                                                            float scale) {
  return static_cast<float>(static_cast<int64_t>(q) - zero_point) * scale;
}

// How fake_quantize, x quantized and dequantized at once, answers to a change: `inside` where x is
// not clamped, so that its gradient passes straight through; `slope` is its derivative by the
// scale. Both are nothing for NaN.
struct FakeQuantizeSlope {
  bool inside;
  float slope;
};

TORCHQUANT_HOST_DEVICE static inline FakeQuantizeSlope fake_quantize_slope(float x, float inv_scale,
                                                                           int32_t zero_point,
                                                                           int32_t quant_min,
                                                                           int32_t quant_max) {
  const float v = x * inv_scale;
  if (v != v) return {false, 0.0f};
  const float rounded = rintf(v);
  const double q = static_cast<double>(rounded) + zero_point;
  if (q < quant_min)
    return {false, static_cast<float>(static_cast<double>(quant_min) - zero_point)};
  if (q > quant_max)
    return {false, static_cast<float>(static_cast<double>(quant_max) - zero_point)};
  return {true, rounded - v};
}

// a - b * c modulo 2^32: exact whenever the true result fits int32, whatever the parts do.
TORCHQUANT_HOST_DEVICE static inline int32_t subtract_product(int32_t a, int32_t b, int32_t c) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) -
                              static_cast<uint32_t>(b) * static_cast<uint32_t>(c));
}

// y = float(sum) * scale * weight_scale, left to right, each step rounded; `sum` is without its
// zero point.
TORCHQUANT_HOST_DEVICE static inline float rescale_value(int32_t sum, float scale,
                                                         float weight_scale) {
  return static_cast<float>(sum) * scale * weight_scale;
}

// The scale of a non-zero finite range, rounded once from double and kept a normal float.
TORCHQUANT_HOST_DEVICE static inline float round_scale(double scale) {
  if (scale < FLT_MIN) return FLT_MIN;
  if (scale > FLT_MAX) return FLT_MAX;
  return static_cast<float>(scale);
}

TORCHQUANT_HOST_DEVICE static inline QParams symmetric_qparams(Range range, int32_t quant_min,
                                                               int32_t quant_max) {
  const int32_t zero = clamp_int(0, quant_min, quant_max);
  if (range.absmax_bits >= kInfinityBits) return {NAN, zero};
  if (range.absmax_bits == 0) return {1.0f, zero};
  return {round_scale(static_cast<double>(float_of(range.absmax_bits)) / quant_max), zero};
}

// The range is first widened to contain 0, so that 0 is represented exactly.
TORCHQUANT_HOST_DEVICE static inline QParams affine_qparams(Range range, int32_t quant_min,
                                                            int32_t quant_max) {
  const int32_t zero = clamp_int(0, quant_min, quant_max);
  if (range.absmax_bits >= kInfinityBits) return {NAN, zero};
  if (range.absmax_bits == 0) return {1.0f, zero};
  const double low = range.min < 0 ? range.min : 0.0;
  const double high = range.max > 0 ? range.max : 0.0;
  const double scale = (high - low) / (static_cast<double>(quant_max) - quant_min);
  if (scale == 0) return {FLT_MIN, zero};  // denormals, on a thread that flushes them to zero
  const int64_t zero_point = quant_min - static_cast<int64_t>(rint(low / scale));
  return {round_scale(scale), clamp_int(zero_point, quant_min, quant_max)};
}

}  // namespace torchquant
