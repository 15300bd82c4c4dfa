// quantize, dequantize, fake_quantize and its gradient as CUDA threads do them, against a loop over
// math/affine.h: wherever the vectors begin and end, in every layout, with every kind of channels.
#include "device_data.h"
#include "kernels/cuda/elementwise.h"
#include "launched.h"

namespace torchquant::kernels::cuda {
namespace {

// Where the elements lie: x in rows of `row` that begin `stride` apart, the others dense.
struct Place {
  int64_t x_offset;
  int64_t out_offset;
  int64_t row;
  int64_t stride;
};

template <class T>
class Input {
 public:
  Input(const Place& place, int64_t size, int64_t seed)
      : place_(place),
        values_(samples<T>(extent(place, size), seed)),
        memory_(placed(values_, place.x_offset)) {}

  T operator[](int64_t i) const {
    return values_[static_cast<size_t>(i / place_.row * place_.stride + i % place_.row)];
  }

  Rows<T> rows() const { return rows_of<T>({memory_.data(), place_.row, place_.stride}); }

 private:
  static int64_t extent(const Place& place, int64_t size) {
    return size == 0 ? 0 : (size / place.row - 1) * place.stride + place.row;
  }

  Place place_;
  std::vector<T> values_;
  Fenced memory_;
};

// The operators: what threads do with a value, and what is wanted.

template <class From, class To>
struct Quantizing {
  using X = From;
  using Out = To;
  CodeRange codes;
  int32_t shift;

  Quantize<From, To> op() const { return {codes.min, codes.max, shift}; }
  To wanted(From x, float scale, int32_t zero_point) const {
    const float inv_scale = 1.0f / scale;
    return static_cast<To>(
        quantize_value(to_float(x), inv_scale, zero_point, codes.min, codes.max) - shift);
  }
};

template <class From, class To>
struct Dequantizing {
  using X = From;
  using Out = To;
  Dequantize<From, To> op() const { return {}; }
  To wanted(From code, float scale, int32_t zero_point) const {
    return from_float<To>(dequantize_value(code, zero_point, scale));
  }
};

template <class T>
struct FakeQuantizing {
  using X = T;
  using Out = T;
  CodeRange codes;

  FakeQuantize<T> op() const { return {codes.min, codes.max}; }
  T wanted(T x, float scale, int32_t zero_point) const {
    const float inv_scale = 1.0f / scale;
    const int32_t q = quantize_value(to_float(x), inv_scale, zero_point, codes.min, codes.max);
    return from_float<T>(dequantize_value(q, zero_point, scale));
  }
};

template <class T>
struct PassingGradients {
  CodeRange codes;

  T wanted(T gradient, T x, float scale, int32_t zero_point) const {
    const auto slope =
        fake_quantize_slope(to_float(x), 1.0f / scale, zero_point, codes.min, codes.max);
    return slope.inside ? gradient_of(gradient) : T{};
  }

  // As it is, but for NaN of the narrow types, of which conversion leaves fewer.
  static T gradient_of(T gradient) { return from_float<T>(to_float(gradient)); }
};

template <class Op, class Inputs, class Out, class Wanted>
testing::AssertionResult writes(const Op& op, const Inputs& inputs, const View& view,
                                const Params& params, Result<Out>& out, Wanted wanted_at) {
  run(elementwise(op, inputs, params.pointers(), view.channels, out.data(), view.size()));
  std::vector<Out> wanted;
  for (int64_t i = 0; i < view.size(); ++i) {
    const auto channel = static_cast<size_t>(view.channel_of[static_cast<size_t>(i)]);
    wanted.push_back(wanted_at(i, params.scale[channel], params.zero_point[channel]));
  }
  return out.holds(wanted);
}

template <class Case>
testing::AssertionResult as_defined(const Case& c, const Place& place, const View& view,
                                    int64_t seed) {
  using From = typename Case::X;
  const Input<From> x(place, view.size(), seed);
  const Params params(view.channels.count, seed);
  Result<typename Case::Out> out(view.size(), place.out_offset);
  return writes(c.op(), Values<From>{x.rows()}, view, params, out,
                [&](int64_t i, float scale, int32_t zero_point) {
                  return c.wanted(x[i], scale, zero_point);
                });
}

// The gradient is dense, at an offset of its own.
template <class T>
testing::AssertionResult as_defined(const PassingGradients<T>& c, const Place& place,
                                    const View& view, int64_t seed) {
  const int64_t size = view.size();
  const int64_t offset = seed % 3 == 0 ? seed % kOffsets : place.out_offset;
  const Input<T> x(place, size, seed), gradient({offset, 0, size, size}, size, seed + 1);
  const Params params(view.channels.count, seed);
  Result<T> out(size, place.out_offset);
  return writes(InputGradient<T>{c.codes.min, c.codes.max},
                GradientAndInput<T>{gradient.rows().data, x.rows()}, view, params, out,
                [&](int64_t i, float scale, int32_t zero_point) {
                  return c.wanted(gradient[i], x[i], scale, zero_point);
                });
}

template <class Visit>
void for_each_operator(Visit visit) {
  for_each_float([&](auto value) {
    using T = decltype(value);
    for_each_int([&](auto code) {
      using Code = decltype(code);
      visit(Quantizing<T, Code>{codes_of<Code>(), 0});
      visit(Dequantizing<Code, T>());
    });
    visit(Quantizing<T, int8_t>{{0, 255}, 128});
    visit(FakeQuantizing<T>{{-128, 127}});
    visit(FakeQuantizing<T>{{-65536, 65535}});
    visit(PassingGradients<T>{{0, 255}});
  });
}

std::vector<int64_t> long_sizes() {
  return {63, 64, 65, 66, 127, 128, 129, 255, 256, 257, 1000, 4099};
}

TEST(CudaElementwise, WritesAsDefinedAtEveryAlignment) {
  for_each_operator([](const auto& c) {
    for (int64_t size = 0; size <= 40; ++size) {
      for (int64_t out_offset = 0; out_offset < kOffsets; ++out_offset) {
        for (const int64_t apart : {0, 1, 4, 8, 15}) {
          const int64_t x_offset = (out_offset + apart) % kOffsets;
          const Place place = {x_offset, out_offset, size, size};
          ASSERT_TRUE(as_defined(c, place, one_channel(size), size + x_offset + 50 * out_offset))
              << size << " at " << x_offset << ", " << out_offset;
        }
      }
    }
  });
}

TEST(CudaElementwise, WritesManyValuesAsDefined) {
  for_each_operator([](const auto& c) {
    for (const int64_t size : long_sizes()) {
      for (int64_t out_offset = 0; out_offset < kOffsets; ++out_offset) {
        for (const int64_t x_offset : {int64_t{0}, out_offset, size % kOffsets}) {
          const Place place = {x_offset, out_offset, size, size};
          ASSERT_TRUE(as_defined(c, place, one_channel(size), size + x_offset + 50 * out_offset))
              << size << " at " << x_offset << ", " << out_offset;
        }
      }
    }
  });
}

TEST(CudaElementwise, FindsTheChannelOfEveryElement) {
  const std::vector<View> views = all_views();
  for_each_operator([&](const auto& c) {
    for (size_t v = 0; v < views.size(); ++v) {
      const int64_t size = views[v].size();
      for (const auto& [x_offset, out_offset] :
           {std::pair{0, 0}, {0, 1}, {1, 0}, {1, 1}, {4, 4}, {8, 5}, {15, 15}, {7, 17}}) {
        const Place place = {x_offset, out_offset, size, size};
        const auto seed = static_cast<int64_t>(v) + 100 * out_offset;
        ASSERT_TRUE(as_defined(c, place, views[v], seed))
            << "view " << v << " at " << x_offset << ", " << out_offset;
      }
    }
  });
}

// Vectors are what makes it fast, and no result tells of them.
TEST(CudaElementwise, TakesVectorsWhereBothSidesAllowThem) {
  const Fenced x = placed(std::vector<float>(256), 0);
  Result<int8_t> q(256);
  const Params params(1, 0);
  const auto has_vectors = [&](int64_t x_offset, int64_t q_offset, int64_t row, int64_t stride) {
    const Rows<float> rows = {x.as<float>() + x_offset, row, stride};
    return elementwise(Quantize<float, int8_t>{0, 1, 0}, Values<float>{rows}, params.pointers(),
                       one_channel(64).channels, q.data() + q_offset, 64)
        .has_vectors;
  };
  EXPECT_TRUE(has_vectors(0, 0, 64, 64));
  EXPECT_TRUE(has_vectors(3, 3, 64, 64));
  EXPECT_TRUE(has_vectors(1, 5, 64, 64));
  EXPECT_TRUE(has_vectors(4, 0, 32, 48));
  EXPECT_TRUE(has_vectors(0, 0, 32, 0));
  EXPECT_FALSE(has_vectors(0, 1, 64, 64));
  EXPECT_FALSE(has_vectors(1, 0, 64, 64));
  EXPECT_FALSE(has_vectors(1, 0, 32, 48));
  EXPECT_FALSE(has_vectors(0, 0, 4, 48));
  EXPECT_FALSE(has_vectors(0, 0, 32, 36));
}

TEST(CudaElementwise, CountsChannelsBeyond32Bits) {
  constexpr int64_t kInner = (int64_t{1} << 32) + 5, kCount = 7;
  const Channels channels = {3, kCount, kInner, kInner, 1};
  for (int64_t run = 0; run < 3 * kCount; ++run) {
    for (const int64_t i : {int64_t{0}, int64_t{1}, kInner - 2, kInner - 1}) {
      ChannelWalk walk(channels, run * kInner + i);
      ASSERT_EQ(walk.channel(), run % kCount);
      ASSERT_EQ(walk.left(), kInner - i);
      ASSERT_EQ(walk.next(channels), i == kInner - 1);
      ASSERT_EQ(walk.channel(), (i == kInner - 1 ? run + 1 : run) % kCount);
    }
  }
}

TEST(CudaElementwise, ReadsRowsThatLieApart) {
  for_each_operator([](const auto& c) {
    for (const int64_t row : {1, 2, 3, 4, 5, 8, 12, 15, 16, 17, 32, 48, 50}) {
      for (const int64_t stride : {int64_t{0}, row / 2, row + 1, row + 3, row + 16, 2 * row}) {
        for (const auto& [x_offset, out_offset] :
             {std::pair{0, 0}, {0, 3}, {1, 0}, {2, 2}, {4, 16}, {16, 8}}) {
          const Place place = {x_offset, out_offset, row, stride};
          for (const View& view : {one_channel(5 * row), token_view(5, row),
                                   channel_view(1, row, 5), group_view(5, row, 4)}) {
            ASSERT_TRUE(as_defined(c, place, view, row + stride + out_offset))
                << row << " every " << stride << " at " << x_offset << ", " << out_offset;
          }
        }
      }
    }
  });
}

}  // namespace
}  // namespace torchquant::kernels::cuda
