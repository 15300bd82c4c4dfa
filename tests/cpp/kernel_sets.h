// Test data, and the sets to test: every one that runs here, each compared with the scalar one.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <random>
#include <vector>

#include "buffers.h"
#include "kernels/element.h"

namespace torchquant::kernels {

class EverySet : public testing::TestWithParam<const Kernels*> {
 protected:
  const Kernels& set() const { return *GetParam(); }
};

inline std::vector<const Kernels*> all_sets() {
  std::vector<const Kernels*> sets;
  for (const auto* one = supported(); *one != nullptr; ++one) sets.push_back(*one);
  return sets;
}

inline std::string name_of(const testing::TestParamInfo<const Kernels*>& set) {
  return set.param->name;
}

inline constexpr Float kFloats[] = {Float::f32, Float::f16, Float::bf16};
inline constexpr Int kInts[] = {Int::i8, Int::u8, Int::i16, Int::i32};

inline size_t size_of(Float type) { return type == Float::f32 ? 4 : 2; }
inline size_t size_of(Int type) { return type == Int::i32 ? 4 : type == Int::i16 ? 2 : 1; }

struct CodeRange {
  int32_t min;
  int32_t max;
};
inline CodeRange range_of(Int type) {
  if (type == Int::i8) return {-128, 127};
  if (type == Int::u8) return {0, 255};
  if (type == Int::i16) return {-32768, 32767};
  return {-65536, 65535};
}

// Normal values with every kind of troublemaker among them, unaligned.
inline Fenced floats(Float type, int64_t count, int64_t seed, bool finite = false) {
  const float special[] = {0.0f,  -0.0f,  0.5f,    1.5f,   -2.5f,    1e-45f, -1e-38f,  3e-6f,
                           3e38f, -3e38f, 65504.f, 127.5f, INFINITY, NAN,    -INFINITY};
  std::mt19937 random(static_cast<uint32_t>(seed));
  std::normal_distribution<float> normal(0, 30);
  std::vector<uint8_t> bytes(count * size_of(type));
  with_type(type, [&](auto element) {
    for (int64_t i = 0; i < count; ++i) {
      const bool pick = random() % 4 == 0;
      const float value = pick ? special[random() % (finite ? 8 : 15)] : normal(random);
      store(bytes.data(), i, from_float<decltype(element)>(value));
    }
  });
  return Fenced(bytes, 1);
}

inline float float_at(const void* values, Float type, int64_t i) {
  float value = 0;
  with_type(type, [&](auto element) { value = to_float(load<decltype(element)>(values, i)); });
  return value;
}

inline std::vector<uint8_t> random_bytes(int64_t count, int64_t seed) {
  std::mt19937 random(static_cast<uint32_t>(seed));
  std::vector<uint8_t> bytes(count);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

// Codes of any value, unaligned where they are wider than a byte.
inline Fenced random_codes(Int type, int64_t count, int64_t seed) {
  const auto size = static_cast<int64_t>(size_of(type));
  return Fenced(random_bytes(count * size, seed), size > 1 ? 1 : 0);
}

// Parameters of channels, unaligned, with every kind of troublemaker among them: the inverse of
// 2e-39 overflows, that of 3e-39 does not, and that of 3e38 is a denormal.
class Channels {
 public:
  Channels(int64_t count, CodeRange codes, int64_t seed)
      : codes_(codes), scale_(scales(count, seed)), zero_point_(zero_points(count, codes, seed)) {}
  const float* scale() const { return scale_.as<float>(); }
  const int32_t* zero_point() const { return zero_point_.as<int32_t>(); }
  ChannelParams params() const { return {scale(), zero_point(), codes_.min, codes_.max}; }

 private:
  static std::vector<float> scales(int64_t count, int64_t seed) {
    const float special[] = {1.0f,   0.5f,   -0.25f, 0.0f,  NAN,      INFINITY,
                             1e-45f, 2e-39f, 3e-39f, 3e38f, -INFINITY};
    std::mt19937 random(static_cast<uint32_t>(seed));
    std::uniform_real_distribution<float> uniform(0.01f, 3.0f);
    std::vector<float> scales(count);
    for (float& scale : scales) {
      scale = random() % 2 == 0 ? special[random() % std::size(special)] : uniform(random);
    }
    return scales;
  }

  static std::vector<int32_t> zero_points(int64_t count, CodeRange codes, int64_t seed) {
    const int32_t special[] = {0, codes.min, codes.max, kVectorZeroPoint, -kVectorZeroPoint};
    std::mt19937 random(static_cast<uint32_t>(seed + 1));
    std::vector<int32_t> zero_points(count);
    for (int32_t& zero_point : zero_points) {
      zero_point = random() % 2 == 0 ? special[random() % std::size(special)]
                                     : static_cast<int32_t>(random() % 600) - 300;
    }
    return zero_points;
  }

  CodeRange codes_;
  Fenced scale_;
  Fenced zero_point_;
};

// Whether call(kernels, out) writes the same `size` bytes for a set as for the scalar one, and none
// around them.
template <class Call>
testing::AssertionResult writes_as_scalar(const Kernels& set, size_t size, Call call) {
  Guarded ours(size), scalars(size);
  call(set, ours.data());
  call(scalar(), scalars.data());
  if (!ours.intact()) return testing::AssertionFailure() << "wrote outside the output";
  const auto a = ours.content(), b = scalars.content();
  if (a == b) return testing::AssertionSuccess();
  const auto first = std::mismatch(a.begin(), a.end(), b.begin()).first - a.begin();
  return testing::AssertionFailure() << "byte " << first << " of " << size << " differs";
}

// Which NaN a sum of several is depends on the order of the operands.
inline bool is_same_sum(double a, double b) {
  return std::isnan(a) ? std::isnan(b) : std::memcmp(&a, &b, sizeof(a)) == 0;
}

inline constexpr int64_t kLongest = 129;  // two of the widest steps and one
inline constexpr int64_t kRuns = 3;

// The lengths of blocks to sum up.
inline std::vector<int64_t> block_lengths() {
  std::vector<int64_t> lengths = {kSumBlock - 1, kSumBlock};
  for (int64_t n = 0; n <= kLongest; ++n) lengths.push_back(n);
  return lengths;
}

}  // namespace torchquant::kernels
