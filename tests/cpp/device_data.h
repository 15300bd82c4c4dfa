// Test data for the CUDA kernels: tensors at any multiple of their element, with any channels.
#pragma once

#include <limits>
#include <type_traits>

#include "kernel_sets.h"
#include "kernels/cuda/channels.h"

namespace torchquant::kernels::cuda {

constexpr int64_t kOffsets = 18;  // elements from a boundary of 16 bytes

// Where an allocator or a view may put values, `offset` elements from a boundary of 16 bytes, and
// at the end of what may be read.
template <class T>
Fenced placed(const std::vector<T>& values, int64_t offset) {
  const size_t bytes = (values.size() + static_cast<size_t>(offset)) * sizeof(T);
  return Fenced(values, (kPieceBytes - bytes % kPieceBytes) % kPieceBytes);
}

// Room for a result at such a place, with guards on both sides.
template <class T>
class Result {
 public:
  explicit Result(int64_t n, int64_t offset = 0)
      : begin_(kGuard + static_cast<size_t>(offset) * sizeof(T)),
        bytes_(begin_ + static_cast<size_t>(n) * sizeof(T) + kGuard, kFill) {}

  T* data() { return reinterpret_cast<T*>(bytes_.data() + begin_); }

  // Whether it holds just these values, bit for bit, and nothing was written around them.
  testing::AssertionResult holds(const std::vector<T>& wanted) const {
    return holds(wanted, [](const T& a, const T& b) { return memcmp(&a, &b, sizeof(T)) == 0; });
  }

  template <class IsSame>
  testing::AssertionResult holds(const std::vector<T>& wanted, IsSame is_same) const {
    const size_t end = bytes_.size() - kGuard;
    for (size_t i = 0; i < bytes_.size(); ++i) {
      if ((i < begin_ || i >= end) && bytes_[i] != kFill) {
        return testing::AssertionFailure() << "wrote outside the result";
      }
    }
    if (end - begin_ != wanted.size() * sizeof(T)) {
      return testing::AssertionFailure() << "another size";
    }
    for (size_t i = 0; i < wanted.size(); ++i) {
      if (!is_same(load<T>(bytes_.data() + begin_, static_cast<int64_t>(i)), wanted[i])) {
        return testing::AssertionFailure() << "value " << i << " of " << wanted.size();
      }
    }
    return testing::AssertionSuccess();
  }

 private:
  static constexpr size_t kGuard = 64;
  static constexpr uint8_t kFill = 0xa5;
  size_t begin_;
  std::vector<uint8_t> bytes_;
};

template <class T>
T random_bits(std::mt19937& random) {
  const auto bits = static_cast<uint32_t>(random());
  T value;
  memcpy(&value, &bits, sizeof(T));
  return value;
}

// Normal values, ties and troublemakers; finite ones are so small that their squares are too.
inline float any_float(std::mt19937& random, bool finite) {
  const float special[] = {0.0f,  -0.0f,  1e-45f,  -1e-38f, 3e-6f, -6e-8f,    65504.0f,
                           3e38f, -3e38f, 127.49f, 1e5f,    NAN,   -INFINITY, INFINITY};
  std::normal_distribution<float> normal(0, 30);
  switch (random() % 4) {
    case 0:
      return special[random() % (finite ? 7 : std::size(special))];
    case 1:
      return 0.25f * static_cast<float>(static_cast<int32_t>(random() % 2000) - 1000);
    default:
      return normal(random);
  }
}

template <class T>
T sample(std::mt19937& random, bool finite) {
  if constexpr (std::is_integral_v<T>) {
    const bool is_extreme = random() % 8 == 0;
    const bool is_least = random() % 2 == 0;
    if (!is_extreme) return random_bits<T>(random);
    return is_least ? std::numeric_limits<T>::min() : std::numeric_limits<T>::max();
  } else if constexpr (std::is_same_v<T, double>) {
    return 1.1 * any_float(random, finite);
  } else {
    if (!finite && random() % 4 == 0) return random_bits<T>(random);
    return from_float<T>(any_float(random, finite));
  }
}

constexpr int64_t kPool = 1 << 17;

// n of them: others for another seed.
template <class T>
std::vector<T> samples(int64_t n, int64_t seed, bool finite = false) {
  static const auto make_pool = [](bool is_finite) {
    std::mt19937 random(is_finite ? 1 : 2);
    std::vector<T> pool(kPool);
    for (T& value : pool) value = sample<T>(random, is_finite);
    return pool;
  };
  static const std::vector<T> pools[] = {make_pool(false), make_pool(true)};
  const auto first = pools[finite ? 1 : 0].begin() + seed * 7919 % (kPool - n);
  return {first, first + n};
}

// Which channel each element is of, counted out dimension by dimension.
struct View {
  Channels channels;
  std::vector<int64_t> channel_of;

  int64_t size() const { return static_cast<int64_t>(channel_of.size()); }
};

inline View one_channel(int64_t size) {
  return {{1, 1, size, size, 1}, std::vector<int64_t>(static_cast<size_t>(size))};
}

// The middle one of three dimensions.
inline View channel_view(int64_t outer, int64_t count, int64_t inner) {
  View view = {{outer, count, inner, inner, 1}, {}};
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t c = 0; c < count; ++c) {
      for (int64_t i = 0; i < inner; ++i) view.channel_of.push_back(c);
    }
  }
  return view;
}

// A channel for each group of each row; the last of a row may be short.
inline View group_view(int64_t rows, int64_t row, int64_t group) {
  const int64_t groups = row / group + (row % group > 0 ? 1 : 0);
  View view = {{1, rows * groups, group, row, groups}, {}};
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t k = 0; k < row; ++k) view.channel_of.push_back(r * groups + k / group);
  }
  return view;
}

inline View token_view(int64_t rows, int64_t row) { return group_view(rows, row, row); }

inline std::vector<View> all_views() {
  std::vector<View> views = {one_channel(0), one_channel(1), one_channel(200)};
  for (const int64_t inner : {1, 3, 15, 16, 17, 100}) {
    for (const auto& [outer, count] : {std::pair{1, 3}, {2, 2}, {5, 1}, {3, 7}, {1, 33}}) {
      views.push_back(channel_view(outer, count, inner));
    }
  }
  for (const auto& [row, group] : {std::pair{10, 4},
                                   {33, 16},
                                   {17, 5},
                                   {100, 32},
                                   {64, 16},
                                   {5, 1},
                                   {16, 16},
                                   {19, 17},
                                   {70, 64},
                                   {47, 16}}) {
    for (const int64_t rows : {1, 2, 5}) views.push_back(group_view(rows, row, group));
  }
  for (const int64_t row : {1, 7, 16, 40, 300}) views.push_back(token_view(6, row));
  return views;
}

// Of every kind: those whose inverse is infinite, zero or a denormal, and zero points at which
// nothing may overflow.
struct Params {
  std::vector<float> scale;
  std::vector<int32_t> zero_point;

  Params(int64_t count, int64_t seed) {
    const float scales[] = {1.0f,   0.5f,   0.0f,  -0.0f,  NAN,    INFINITY, -INFINITY, 1e-45f,
                            2e-39f, 3e-39f, 3e38f, 1e-30f, -0.25f, 1e30f,    -1e-40f};
    const int32_t zero_points[] = {INT32_MIN, INT32_MAX, 0, -128, 255, 1 << 24, -(1 << 24) - 1};
    std::mt19937 random(static_cast<uint32_t>(seed));
    std::uniform_real_distribution<float> uniform(0.01f, 3.0f);
    for (int64_t i = 0; i < count; ++i) {
      const bool pick_scale = random() % 3 == 0, pick_zero_point = random() % 3 == 0;
      scale.push_back(pick_scale ? scales[random() % std::size(scales)] : uniform(random));
      zero_point.push_back(pick_zero_point ? zero_points[random() % std::size(zero_points)]
                                           : static_cast<int32_t>(random() % 600) - 300);
    }
  }

  ParamsOfChannels pointers() const { return {scale.data(), zero_point.data()}; }
};

// Calls visit(T()) for the float types.
template <class Visit>
void for_each_float(Visit visit) {
  for (const Float type : kFloats) with_type(type, visit);
}
template <class Visit>
void for_each_int(Visit visit) {
  for (const Int type : kInts) with_type(type, visit);
}

template <class T>
CodeRange codes_of() {
  if (std::is_same_v<T, int8_t>) return range_of(Int::i8);
  if (std::is_same_v<T, uint8_t>) return range_of(Int::u8);
  if (std::is_same_v<T, int16_t>) return range_of(Int::i16);
  return range_of(Int::i32);
}

}  // namespace torchquant::kernels::cuda
