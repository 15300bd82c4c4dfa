// float16 and bfloat16 as bits, to and from float32: round to nearest even, denormals kept, and
// for NaN the bits that the F16C instructions give, so that every kernel set agrees.
#pragma once

#include "affine.h"

namespace torchquant {

TORCHQUANT_HOST_DEVICE static inline float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t magnitude = half & 0x7fff;
  if (magnitude > 0x7c00) return float_of(sign | 0x7fc00000 | (magnitude << 13));
  if (magnitude == 0x7c00) return float_of(sign | kInfinityBits);
  if (magnitude >= 0x0400) return float_of(sign | ((magnitude << 13) + 0x38000000));
  const float denormal = static_cast<float>(magnitude) * 0x1p-24f;
  return float_of(sign | bits_of(denormal));
}

TORCHQUANT_HOST_DEVICE static inline uint16_t float_to_half(float x) {
  const uint32_t bits = bits_of(x);
  const uint32_t magnitude = bits & 0x7fffffff;
  const uint32_t sign = (bits >> 16) & 0x8000;
  if (magnitude > kInfinityBits) {
    return static_cast<uint16_t>(sign | 0x7e00 | ((magnitude >> 13) & 0x3ff));
  }
  if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // 65520 and above
  if (magnitude < 0x38800000) {  // below 2^-14: a denormal, a multiple of 2^-24
    const float steps = rintf(float_of(magnitude) * 0x1p24f);
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(steps));
  }
  const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000) >> 13));
}

TORCHQUANT_HOST_DEVICE static inline float bfloat16_to_float(uint16_t half) {
  return float_of(static_cast<uint32_t>(half) << 16);
}

TORCHQUANT_HOST_DEVICE static inline uint16_t float_to_bfloat16(float x) {
  const uint32_t bits = bits_of(x);
  if ((bits & 0x7fffffff) > kInfinityBits) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace torchquant
