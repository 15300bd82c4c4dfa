// Element types as C++ types, so that a kernel is written once for all of them: from an enum to a
// type, and one value from memory to float32 or int32 and back, at any alignment.
#pragma once

#include "../math/half.h"
#include "kernels.h"

namespace torchquant::kernels {
namespace {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// Calls f(T()) with the T that the enum stands for.
template <class F>
inline void with_type(Float type, F f) {
  switch (type) {
    case Float::f32:
      return f(float());
    case Float::f16:
      return f(Half());
    case Float::bf16:
      return f(BFloat16());
  }
}

template <class F>
inline void with_type(Int type, F f) {
  switch (type) {
    case Int::i8:
      return f(int8_t());
    case Int::u8:
      return f(uint8_t());
    case Int::i16:
      return f(int16_t());
    case Int::i32:
      return f(int32_t());
  }
}

template <class T>
inline const T* at(const void* base, int64_t index) {
  return reinterpret_cast<const T*>(static_cast<const char*>(base) +
                                    index * static_cast<int64_t>(sizeof(T)));
}

template <class T>
inline T* at(void* base, int64_t index) {
  return reinterpret_cast<T*>(static_cast<char*>(base) + index * static_cast<int64_t>(sizeof(T)));
}

// memcpy of bytes: to dereference a misaligned T* is undefined, and already from its type clang
// concludes that it is aligned.
template <class T>
inline T load(const void* base, int64_t index) {
  T value;
  memcpy(&value, at<char>(base, index * static_cast<int64_t>(sizeof(T))), sizeof(T));
  return value;
}

template <class T>
inline void store(void* base, int64_t index, T value) {
  memcpy(at<char>(base, index * static_cast<int64_t>(sizeof(T))), &value, sizeof(T));
}

// The parameters of run or column `index`.
inline QuantizeParams params_of(const ChannelParams& params, int64_t index) {
  return {1.0f / load<float>(params.scale, index), load<int32_t>(params.zero_point, index),
          params.quant_min, params.quant_max};
}

// The same for every set, but it takes an instruction to round where there is one.
inline void choose_qparams(const Range* ranges, int64_t n, const ChosenCodes& codes, float* scale,
                           int32_t* zero_point) {
  const auto choose = codes.symmetric ? symmetric_qparams : affine_qparams;
  for (int64_t i = 0; i < n; ++i) {
    const QParams chosen = choose(ranges[i], codes.quant_min, codes.quant_max);
    scale[i] = chosen.scale;
    zero_point[i] = chosen.zero_point;
  }
}

TORCHQUANT_HOST_DEVICE inline float to_float(float x) { return x; }
TORCHQUANT_HOST_DEVICE inline float to_float(Half x) { return half_to_float(x.bits); }
TORCHQUANT_HOST_DEVICE inline float to_float(BFloat16 x) { return bfloat16_to_float(x.bits); }

template <class T>
TORCHQUANT_HOST_DEVICE inline T from_float(float x);
template <>
TORCHQUANT_HOST_DEVICE inline float from_float<float>(float x) {
  return x;
}
template <>
TORCHQUANT_HOST_DEVICE inline Half from_float<Half>(float x) {
  return {float_to_half(x)};
}
template <>
TORCHQUANT_HOST_DEVICE inline BFloat16 from_float<BFloat16>(float x) {
  return {float_to_bfloat16(x)};
}

}  // namespace
}  // namespace torchquant::kernels
