// The same bytes through every kernel set: what any of them does otherwise than the scalar one is a
// fault.
#pragma once

#include "../cpp/buffers.h"
#include "input.h"
#include "kernels/element.h"

namespace torchquant::fuzz {

using namespace kernels;

inline constexpr Float kFloats[] = {Float::f32, Float::f16, Float::bf16};
inline constexpr Int kInts[] = {Int::i8, Int::u8, Int::i16, Int::i32};

inline int64_t size_of(Float type) { return type == Float::f32 ? 4 : 2; }
inline int64_t size_of(Int type) { return type == Int::i32 ? 4 : type == Int::i16 ? 2 : 1; }

// Calls f(set) for each set that this machine runs, the scalar one last.
template <class F>
void for_each_set(F f) {
  for (const Kernels* const* set = supported(); *set != nullptr; ++set) f(**set);
}

// A gap before the page that nobody may touch leaves an element of several bytes unaligned.
inline Fenced fenced(const std::vector<uint8_t>& bytes, int64_t element) {
  return Fenced(bytes, element > 1 ? 1 : 0);
}

inline Fenced elements(const std::vector<float>& values, Float type) {
  std::vector<uint8_t> bytes(values.size() * static_cast<size_t>(size_of(type)));
  with_type(type, [&](auto element) {
    for (size_t i = 0; i < values.size(); ++i) {
      store(bytes.data(), static_cast<int64_t>(i), from_float<decltype(element)>(values[i]));
    }
  });
  return fenced(bytes, size_of(type));
}

// A NaN's sign and payload are nobody's promise.
template <class T, class IsNan>
void forget_nans(std::vector<uint8_t>& bytes, T nan, IsNan is_nan) {
  for (size_t i = 0; i + sizeof(T) <= bytes.size(); i += sizeof(T)) {
    T value;
    std::memcpy(&value, bytes.data() + i, sizeof(T));
    if (is_nan(value)) std::memcpy(bytes.data() + i, &nan, sizeof(T));
  }
}

inline std::vector<uint8_t> without_nans(std::vector<uint8_t> bytes, Float type) {
  with_type(type, [&](auto element) {
    using T = decltype(element);
    forget_nans(bytes, from_float<T>(NAN), [](T value) { return std::isnan(to_float(value)); });
  });
  return bytes;
}

inline std::vector<uint8_t> without_nans(std::vector<uint8_t> bytes, Int) { return bytes; }

// call(kernels, out) writes the same `count` elements for every set.
template <class Type, class Call>
void require_same(int64_t count, Type type, Call call) {
  const auto size = static_cast<size_t>(count * size_of(type));
  Guarded wanted(size);
  call(scalar(), wanted.data());
  for_each_set([&](const Kernels& set) {
    Guarded given(size);
    call(set, given.data());
    require(given.intact() && wanted.intact(), "a kernel wrote outside its output");
    require(without_nans(given.content(), type) == without_nans(wanted.content(), type), set.name);
  });
}

inline bool is_same(double a, double b) { return std::isnan(a) ? std::isnan(b) : a == b; }

// Parameters of channels, such that vector kernels take them.
class Channels {
 public:
  Channels(Input& input, int64_t count, int32_t quant_min, int32_t quant_max)
      : scale_(input.scales(count)),
        zero_point_(input.zero_points(count, kVectorZeroPoint)),
        quant_min_(quant_min),
        quant_max_(quant_max) {}
  ChannelParams params() const {
    return {scale_.as<float>(), zero_point_.as<int32_t>(), quant_min_, quant_max_};
  }

 private:
  Fenced scale_;
  Fenced zero_point_;
  int32_t quant_min_, quant_max_;
};

struct CodeRange {
  int32_t min, max;
};

inline CodeRange code_range(Input& input, Int type) {
  const CodeRange whole = type == Int::i8    ? CodeRange{-128, 127}
                          : type == Int::u8  ? CodeRange{0, 255}
                          : type == Int::i16 ? CodeRange{-32768, 32767}
                                             : CodeRange{-65536, 65535};
  if (input.flip()) return whole;
  const auto min = static_cast<int32_t>(input.integer(whole.min, whole.max - 1));
  return {min, static_cast<int32_t>(input.integer(min + 1, whole.max))};
}

}  // namespace torchquant::fuzz
