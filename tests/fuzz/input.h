// What a target makes of the fuzzer's bytes, and what it says where something differs.
#pragma once

#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace torchquant::fuzz {

// Ends the program, which is how a fuzzer learns of a fault.
inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "fault: %s\n", what);
  std::abort();
}

class Input {
 public:
  Input(const uint8_t* data, size_t size) : bytes_(data, size) {}

  bool flip() { return bytes_.ConsumeBool(); }
  int64_t integer(int64_t least, int64_t greatest) {
    return bytes_.ConsumeIntegralInRange(least, greatest);
  }
  template <class T, size_t count>
  T pick(const T (&choices)[count]) {
    return bytes_.PickValueInArray(choices);
  }
  std::string rest() { return bytes_.ConsumeRemainingBytesAsString(); }

  // Mostly short, so that tails are met, now and then longer.
  int64_t length(int64_t longest) {
    return flip() ? integer(0, std::min<int64_t>(longest, 40)) : integer(0, longest);
  }

  // Any bits: the input's own while they last, or of a generator that the input seeds.
  std::vector<uint8_t> bytes(int64_t count) {
    std::vector<uint8_t> all(static_cast<size_t>(count));
    if (all.empty()) return all;
    if (flip()) {
      bytes_.ConsumeData(all.data(), all.size());
    } else {
      std::minstd_rand random(bytes_.ConsumeIntegral<uint32_t>());
      for (uint8_t& byte : all) byte = static_cast<uint8_t>(random() >> 8);
    }
    return all;
  }

  // Values of one kind: any bits, halves of integers (ties and their neighbours), or plain ones.
  std::vector<float> floats(int64_t count) {
    const int64_t kind = integer(0, 2);
    std::vector<float> values(static_cast<size_t>(count));
    if (kind == 0) {
      const auto all = bytes(count * int64_t{sizeof(float)});
      if (count > 0) std::memcpy(values.data(), all.data(), all.size());
      return values;
    }
    std::minstd_rand random(bytes_.ConsumeIntegral<uint32_t>());
    std::normal_distribution<float> normal(0, 30);
    for (float& value : values) {
      value = kind == 1 ? static_cast<float>(static_cast<int>(random() % 2048) - 1024) / 2
                        : normal(random);
    }
    return values;
  }

  // Scales: usual ones, and now and then what the contract only defines a result for.
  std::vector<float> scales(int64_t count) {
    if (flip()) return floats(count);
    const float special[] = {1.0f,      0.5f,   0.1f,     0.007f,     0.0f,   -1.0f,
                             1e-45f,    2e-39f, 3e-39f,   3e38f,      1e-38f, INFINITY,
                             -INFINITY, NAN,    1.5e-38f, 0.00390625f};
    std::vector<float> values;
    for (int64_t i = 0; i < count; ++i) values.push_back(pick(special));
    return values;
  }

  // From [-most, most], its ends among them.
  std::vector<int32_t> zero_points(int64_t count, int64_t most) {
    std::vector<int32_t> values;
    const bool wide = flip();
    for (int64_t i = 0; i < count; ++i) {
      values.push_back(static_cast<int32_t>(wide ? integer(-most, most) : integer(-130, 260)));
    }
    return values;
  }

 private:
  FuzzedDataProvider bytes_;
};

// What each target defines: one call for each input.
void test(Input input);

}  // namespace torchquant::fuzz
