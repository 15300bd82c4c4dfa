// Ranges, quantize, dequantize, fake_quantize with its backward, and errors, over runs and columns.
#include "kernels.h"

namespace torchquant::fuzz {
namespace {

constexpr int64_t kMostRuns = 4;
constexpr int64_t kLongest = 600;

// The result for runs, or for one row of columns, of a kernel struct that has both.
struct Shape {
  bool by_columns;
  int64_t runs, n;

  explicit Shape(Input& input)
      : by_columns(input.flip()),
        runs(by_columns ? 1 : input.integer(0, kMostRuns)),
        n(input.length(kLongest)) {}
  int64_t count() const { return runs * n; }
  int64_t channels() const { return by_columns ? n : runs; }
};

void quantize(Input& input) {
  const Float from = input.pick(kFloats);
  const Int to = input.pick(kInts);
  const CodeRange codes = code_range(input, to);
  const Shape shape(input);
  const Channels channels(input, shape.channels(), codes.min, codes.max);
  const Fenced x = elements(input.floats(shape.count()), from);
  require_same(shape.count(), to, [&](const Kernels& set, void* q) {
    shape.by_columns
        ? set.quantize.columns(x.data(), from, q, to, shape.n, channels.params())
        : set.quantize.runs(x.data(), from, q, to, shape.runs, shape.n, channels.params());
  });
}

void dequantize(Input& input) {
  const Int from = input.pick(kInts);
  const Float to = input.pick(kFloats);
  const Shape shape(input);
  const Channels channels(input, shape.channels(), 0, 1);
  const Fenced q = fenced(input.bytes(shape.count() * size_of(from)), size_of(from));
  const ChannelParams params = channels.params();
  require_same(shape.count(), to, [&](const Kernels& set, void* x) {
    shape.by_columns
        ? set.dequantize.columns(q.data(), from, x, to, shape.n, params.scale, params.zero_point)
        : set.dequantize.runs(q.data(), from, x, to, shape.runs, shape.n, params.scale,
                              params.zero_point);
  });
}

void fake_quantize(Input& input) {
  const Float type = input.pick(kFloats);
  const CodeRange codes = code_range(input, Int::i32);
  const Shape shape(input);
  const Channels channels(input, shape.channels(), codes.min, codes.max);
  const Fenced x = elements(input.floats(shape.count()), type);
  require_same(shape.count(), type, [&](const Kernels& set, void* y) {
    shape.by_columns
        ? set.fake_quantize.columns(x.data(), type, y, shape.n, channels.params())
        : set.fake_quantize.runs(x.data(), type, y, shape.runs, shape.n, channels.params());
  });
}

void fake_quantize_backward(Input& input) {
  const Float type = input.pick(kFloats);
  const CodeRange codes = code_range(input, Int::i32);
  const Shape shape(input);
  const Channels channels(input, shape.channels(), codes.min, codes.max);
  const Fenced x = elements(input.floats(shape.count()), type);
  const Fenced output = elements(input.floats(shape.count()), type);
  const FakeQuantizeKernels& defined = scalar().fake_quantize;
  require_same(shape.count(), type, [&](const Kernels& set, void* to) {
    const Gradients gradients = {output.data(), x.data(), to, type};
    if (shape.by_columns) {
      set.fake_quantize.backward_columns(gradients, shape.n, channels.params());
      std::vector<double> sums(kSumLanes * padded_columns(shape.n)), wanted = sums;
      set.fake_quantize.slope_columns(gradients, 1, shape.n, shape.n, channels.params(),
                                      sums.data());
      defined.slope_columns(gradients, 1, shape.n, shape.n, channels.params(), wanted.data());
      for (int64_t i = 0; i < shape.n; ++i) require(is_same(sums[i], wanted[i]), "slope_columns");
    } else {
      set.fake_quantize.backward_runs(gradients, shape.runs, shape.n, channels.params());
      if (shape.runs == 0) return;
      require(is_same(set.fake_quantize.slope_block(gradients, shape.n, channels.params()),
                      defined.slope_block(gradients, shape.n, channels.params())),
              "slope_block");
    }
  });
}

// Beside NaN and Inf min and max mean nothing, and zeros compare equal.
bool is_same_range(const Range& a, const Range& b) {
  if (a.absmax_bits != b.absmax_bits) return false;
  return a.absmax_bits >= kInfinityBits || (a.min == b.min && a.max == b.max);
}

void range_of_runs(Input& input, Float type) {
  const int64_t runs = input.integer(0, kMostRuns), n = input.length(kLongest);
  const CodeRange codes = code_range(input, Int::i32);
  const bool symmetric = input.flip() && codes.min < 0 && codes.max > 0;
  const Fenced x = elements(input.floats(runs * n), type);
  std::vector<Range> wanted(runs, kEmptyRange);
  scalar().range.runs(x.data(), type, runs, n, wanted.data());
  for_each_set([&](const Kernels& set) {
    std::vector<Range> given(runs, kEmptyRange);
    set.range.runs(x.data(), type, runs, n, given.data());
    std::vector<float> scale(runs);
    std::vector<int32_t> zero_point(runs);
    set.range.choose(given.data(), runs, {codes.min, codes.max, symmetric}, scale.data(),
                     zero_point.data());
    for (int64_t r = 0; r < runs; ++r) {
      require(is_same_range(given[r], wanted[r]), "range.runs");
      require(is_same_range(set.range.span(at<char>(x.data(), r * n * size_of(type)), type, n),
                            wanted[r]),
              "range.span");
      const QParams chosen =
          (symmetric ? symmetric_qparams : affine_qparams)(wanted[r], codes.min, codes.max);
      require(is_same(scale[r], chosen.scale) && zero_point[r] == chosen.zero_point, "choose");
      require(codes.min <= zero_point[r] && zero_point[r] <= codes.max,
              "zero point beyond the codes");
      require(!(scale[r] < FLT_MIN || scale[r] > FLT_MAX), "scale that is no normal float");
    }
  });
}

void range_of_columns(Input& input, Float type) {
  const int64_t rows = input.integer(0, 9), columns = input.length(200);
  const int64_t stride = columns + input.integer(0, 3);
  const Fenced x =
      elements(input.floats(rows == 0 || columns == 0 ? 0 : (rows - 1) * stride + columns), type);
  for_each_set([&](const Kernels& set) {
    std::vector<float> min(columns, INFINITY), max(columns, -INFINITY);
    std::vector<uint32_t> absmax(columns, 0);
    set.range.columns(x.data(), type, rows, stride, columns, min.data(), max.data(), absmax.data());
    for (int64_t j = 0; j < columns; ++j) {
      Range wanted = kEmptyRange;
      for (int64_t i = 0; i < rows; ++i) {
        const void* value = at<char>(x.data(), (i * stride + j) * size_of(type));
        wanted = merge(wanted, scalar().range.span(value, type, 1));
      }
      require(is_same_range(Range{min[j], max[j], absmax[j]}, wanted), "range.columns");
    }
  });
}

void range(Input& input) {
  const Float type = input.pick(kFloats);
  input.flip() ? range_of_runs(input, type) : range_of_columns(input, type);
}

void require_same(const ErrorSums& a, const ErrorSums& b) {
  require(is_same(a.max_error, b.max_error) && is_same(a.absolute, b.absolute) &&
              is_same(a.squared, b.squared) && is_same(a.signal, b.signal),
          "error");
}

void error(Input& input) {
  const Float from = input.pick(kFloats), to = input.pick(kFloats);
  const int64_t n = input.length(kSumBlock);
  const Fenced x = elements(input.floats(n), from), y = elements(input.floats(n), to);
  const auto a = input.bytes(n * 8), b = input.bytes(n * 8);
  const Fenced doubles = fenced(a, 8), others = fenced(b, 8);
  for_each_set([&](const Kernels& set) {
    require_same(set.error.floats(x.data(), from, y.data(), to, n),
                 scalar().error.floats(x.data(), from, y.data(), to, n));
    require_same(set.error.doubles(doubles.as<double>(), others.as<double>(), n),
                 scalar().error.doubles(doubles.as<double>(), others.as<double>(), n));
  });
}

}  // namespace

void test(Input input) {
  constexpr void (*kSubjects[])(Input&) = {
      quantize, dequantize, fake_quantize, fake_quantize_backward, range, error};
  input.pick(kSubjects)(input);
}

}  // namespace torchquant::fuzz
