// Test data, and the sets to test: every one that runs here, each compared with the scalar one.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/kernels.h"
#include "math/half.h"

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

// Normal values with every kind of troublemaker among them, as bytes of `type`, behind one byte of
// padding, so that nothing is aligned.
inline std::vector<uint8_t> floats(Float type, int64_t count, uint32_t seed, bool finite = false) {
  const float special[] = {0.0f,  -0.0f,  0.5f,    1.5f,   -2.5f,    1e-45f, -1e-38f,
                           3e38f, -3e38f, 65504.f, 127.5f, INFINITY, NAN,    -INFINITY};
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 30);
  std::vector<uint8_t> bytes(1 + count * size_of(type));
  for (int64_t i = 0; i < count; ++i) {
    const bool pick = random() % 4 == 0;
    const float value = pick ? special[random() % (finite ? 7 : 14)] : normal(random);
    uint8_t* to = bytes.data() + 1 + i * size_of(type);
    const uint16_t half = type == Float::f16 ? float_to_half(value) : float_to_bfloat16(value);
    std::memcpy(to, type == Float::f32 ? static_cast<const void*>(&value) : &half, size_of(type));
  }
  return bytes;
}

inline std::vector<uint8_t> random_bytes(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint8_t> bytes(count);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

// A buffer whose end is watched: whoever writes past the data changes the guard.
class Guarded {
 public:
  explicit Guarded(size_t size) : size_(size), bytes_(1 + size + kGuard, kFill) {}
  void* data() { return bytes_.data() + 1; }
  std::vector<uint8_t> content() const {
    return {bytes_.begin() + 1, bytes_.begin() + 1 + static_cast<std::ptrdiff_t>(size_)};
  }
  bool intact() const {
    for (size_t i = 1 + size_; i < bytes_.size(); ++i) {
      if (bytes_[i] != kFill) return false;
    }
    return bytes_[0] == kFill;
  }

 private:
  static constexpr size_t kGuard = 128;
  static constexpr uint8_t kFill = 0xa5;
  size_t size_;
  std::vector<uint8_t> bytes_;
};

inline constexpr int64_t kLongest = 129;  // two of the widest vectors and one

}  // namespace torchquant::kernels
