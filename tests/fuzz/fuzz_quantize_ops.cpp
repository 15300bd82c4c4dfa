// The elementwise operators at any strides, against math/affine.h one element after the other.
#include "tensors.h"

namespace torchquant::fuzz {
namespace {

enum class Scheme { per_tensor, per_channel, per_group, per_token };
constexpr Scheme kSchemes[] = {Scheme::per_tensor, Scheme::per_channel, Scheme::per_group,
                               Scheme::per_token};

// Which parameters an element has.
struct Granularity {
  Scheme scheme;
  Shape sizes;
  int64_t axis = 0, group_size = 1;

  explicit Granularity(Input& input)
      : scheme(input.pick(kSchemes)), sizes(shape(input, scheme == Scheme::per_tensor ? 0 : 1)) {
    const auto dims = static_cast<int64_t>(sizes.size());
    if (scheme == Scheme::per_channel) axis = input.integer(-dims, dims - 1);
    if (scheme == Scheme::per_group) group_size = input.integer(1, 70);
  }

  int64_t last() const { return sizes.back(); }
  int64_t groups() const { return (last() + group_size - 1) / group_size; }
  int64_t wrapped() const { return axis < 0 ? axis + static_cast<int64_t>(sizes.size()) : axis; }

  Shape channels() const {
    if (scheme == Scheme::per_tensor) return {};
    if (scheme == Scheme::per_channel) return {sizes[wrapped()]};
    Shape shape = sizes;
    shape.back() = scheme == Scheme::per_token ? 1 : groups();
    return shape;
  }

  int64_t channel_of(int64_t element) const {
    if (scheme == Scheme::per_tensor) return 0;
    if (scheme == Scheme::per_token) return element / last();
    if (scheme == Scheme::per_group) {
      return element / last() * groups() + element % last() / group_size;
    }
    int64_t inner = 1;
    for (size_t i = wrapped() + 1; i < sizes.size(); ++i) inner *= sizes[i];
    return element / inner % sizes[wrapped()];
  }
};

// At any strides for the operator, and as plain arrays for the definition.
struct Params {
  at::Tensor scale, zero_point;

  Params(Input& input, const Granularity& granularity) {
    const Shape sizes = granularity.channels();
    const int64_t count = count_of(sizes);
    scale = laid_out(input, dense(input.scales(count), sizes, at::kFloat));
    zero_point = laid_out(input, dense(input.zero_points(count, INT32_MAX), sizes, at::kInt));
    dense_scale_ = plain(scale);
    dense_zero_point_ = plain(zero_point);
  }
  const float* scales() const { return dense_scale_.const_data_ptr<float>(); }
  const int32_t* zero_points() const { return dense_zero_point_.const_data_ptr<int32_t>(); }

 private:
  at::Tensor dense_scale_, dense_zero_point_;
};

at::Tensor call_quantize(const Granularity& g, const at::Tensor& x, const Params& p,
                         const CodeRange& range, at::ScalarType dtype) {
  switch (g.scheme) {
    case Scheme::per_tensor:
      return quantize_per_tensor(x, p.scale, p.zero_point, range.min, range.max, dtype);
    case Scheme::per_channel:
      return quantize_per_channel(x, p.scale, p.zero_point, g.axis, range.min, range.max, dtype);
    case Scheme::per_group:
      return quantize_per_group(x, p.scale, p.zero_point, g.group_size, range.min, range.max,
                                dtype);
    case Scheme::per_token:
      return quantize_per_token(x, p.scale, p.zero_point, range.min, range.max, dtype);
  }
  std::abort();
}

void call_quantize_out(const Granularity& g, const at::Tensor& x, const Params& p,
                       const CodeRange& range, at::Tensor out) {
  const at::ScalarType dtype = out.scalar_type();
  switch (g.scheme) {
    case Scheme::per_tensor:
      return quantize_per_tensor_out(x, p.scale, p.zero_point, range.min, range.max, dtype, out);
    case Scheme::per_channel:
      return quantize_per_channel_out(x, p.scale, p.zero_point, g.axis, range.min, range.max, dtype,
                                      out);
    case Scheme::per_group:
      return quantize_per_group_out(x, p.scale, p.zero_point, g.group_size, range.min, range.max,
                                    dtype, out);
    case Scheme::per_token:
      return quantize_per_token_out(x, p.scale, p.zero_point, range.min, range.max, dtype, out);
  }
}

at::Tensor call_dequantize(const Granularity& g, const at::Tensor& q, const Params& p,
                           at::ScalarType dtype) {
  switch (g.scheme) {
    case Scheme::per_tensor:
      return dequantize_per_tensor(q, p.scale, p.zero_point, dtype);
    case Scheme::per_channel:
      return dequantize_per_channel(q, p.scale, p.zero_point, g.axis, dtype);
    case Scheme::per_group:
      return dequantize_per_group(q, p.scale, p.zero_point, g.group_size, dtype);
    case Scheme::per_token:
      return dequantize_per_token(q, p.scale, p.zero_point, dtype);
  }
  std::abort();
}

void call_dequantize_out(const Granularity& g, const at::Tensor& q, const Params& p,
                         at::Tensor out) {
  const at::ScalarType dtype = out.scalar_type();
  switch (g.scheme) {
    case Scheme::per_tensor:
      return dequantize_per_tensor_out(q, p.scale, p.zero_point, dtype, out);
    case Scheme::per_channel:
      return dequantize_per_channel_out(q, p.scale, p.zero_point, g.axis, dtype, out);
    case Scheme::per_group:
      return dequantize_per_group_out(q, p.scale, p.zero_point, g.group_size, dtype, out);
    case Scheme::per_token:
      return dequantize_per_token_out(q, p.scale, p.zero_point, dtype, out);
  }
}

int32_t quantized(float x, const QParams& params, const CodeRange& range) {
  return quantize_value(x, 1.0f / params.scale, params.zero_point, static_cast<int32_t>(range.min),
                        static_cast<int32_t>(range.max));
}

// f(element, channel) for each, in order, as int32 or float32, then in the dtype.
template <class T, class F>
at::Tensor defined(const Granularity& g, at::ScalarType dtype, F f) {
  std::vector<T> values(static_cast<size_t>(count_of(g.sizes)));
  for (int64_t i = 0; i < count_of(g.sizes); ++i) values[i] = f(i, g.channel_of(i));
  return dense(values, g.sizes, dtype);
}

void quantize(Input& input) {
  const Granularity g(input);
  const at::ScalarType dtype = input.pick(kCodes);
  const CodeRange range = code_range(input, dtype);
  const at::Tensor x = laid_out(input, floats(input, g.sizes, input.pick(kFloats)));
  const Params params(input, g);
  const at::Tensor values = plain(x).to(at::kFloat);
  const float *from = values.const_data_ptr<float>(), *scale = params.scales();
  const int32_t* zero_point = params.zero_points();
  const at::Tensor wanted = defined<int32_t>(g, dtype, [&](int64_t i, int64_t c) {
    return quantized(from[i], {scale[c], zero_point[c]}, range);
  });
  require(equal_bits(call_quantize(g, x, params, range, dtype), wanted), "quantize");
  const at::Tensor out = anywhere(input, g.sizes, dtype);
  call_quantize_out(g, x, params, range, out);
  require(equal_bits(out, wanted), "quantize.out");
}

void dequantize(Input& input) {
  const Granularity g(input);
  const at::ScalarType dtype = input.pick(kFloats);
  const at::Tensor q = laid_out(input, codes(input, g.sizes, input.pick(kCodes)));
  const Params params(input, g);
  const at::Tensor values = plain(q).to(at::kInt);
  const int32_t *from = values.const_data_ptr<int32_t>(), *zero_point = params.zero_points();
  const float* scale = params.scales();
  const at::Tensor wanted = defined<float>(g, dtype, [&](int64_t i, int64_t c) {
    return dequantize_value(from[i], zero_point[c], scale[c]);
  });
  require(equal_bits(call_dequantize(g, q, params, dtype), wanted), "dequantize");
  const at::Tensor out = anywhere(input, g.sizes, dtype);
  call_dequantize_out(g, q, params, out);
  require(equal_bits(out, wanted), "dequantize.out");
}

void fake_quantize(Input& input) {
  const Granularity g(input);
  if (g.scheme == Scheme::per_group || g.scheme == Scheme::per_token) return;
  const CodeRange range = code_range(input, at::kInt);
  const at::ScalarType dtype = input.pick(kFloats);
  const at::Tensor x = laid_out(input, floats(input, g.sizes, dtype));
  const Params params(input, g);
  const at::Tensor values = plain(x).to(at::kFloat);
  const float *from = values.const_data_ptr<float>(), *scale = params.scales();
  const int32_t* zero_point = params.zero_points();
  const at::Tensor wanted = defined<float>(g, dtype, [&](int64_t i, int64_t c) {
    const int32_t q = quantized(from[i], {scale[c], zero_point[c]}, range);
    return dequantize_value(q, zero_point[c], scale[c]);
  });
  const bool per_tensor = g.scheme == Scheme::per_tensor;
  const at::Tensor given =
      per_tensor
          ? fake_quantize_per_tensor(x, params.scale, params.zero_point, range.min, range.max)
          : fake_quantize_per_channel(x, params.scale, params.zero_point, g.axis, range.min,
                                      range.max);
  require(equal_bits(given, wanted), "fake_quantize");

  const at::Tensor grad = laid_out(input, floats(input, g.sizes, dtype));
  const auto [grad_x, grad_scale] =
      per_tensor ? fake_quantize_per_tensor_backward(grad, x, params.scale, params.zero_point,
                                                     range.min, range.max, input.flip())
                 : fake_quantize_per_channel_backward(grad, x, params.scale, params.zero_point,
                                                      g.axis, range.min, range.max, input.flip());
  const at::Tensor grads = plain(grad).to(at::kFloat);
  const float* passed = grads.const_data_ptr<float>();
  const at::Tensor wanted_grad = defined<float>(g, dtype, [&](int64_t i, int64_t c) {
    const FakeQuantizeSlope slope =
        fake_quantize_slope(from[i], 1.0f / scale[c], zero_point[c],
                            static_cast<int32_t>(range.min), static_cast<int32_t>(range.max));
    return slope.inside ? passed[i] : 0.0f;
  });
  require(equal_bits(grad_x, wanted_grad), "fake_quantize_backward");
}

// The qparams of each channel, by the definition.
std::vector<QParams> chosen(const Granularity& g, const at::Tensor& x, const CodeRange& range,
                            bool symmetric) {
  std::vector<Range> ranges(static_cast<size_t>(count_of(g.channels())), kEmptyRange);
  const at::Tensor values = plain(x).to(at::kFloat);
  const float* from = values.const_data_ptr<float>();
  for (int64_t i = 0; i < x.numel(); ++i) {
    Range& r = ranges[g.channel_of(i)];
    r = merge(r, {from[i], from[i], bits_of(from[i]) & 0x7fffffff});
  }
  std::vector<QParams> qparams;
  for (const Range& r : ranges) {
    qparams.push_back((symmetric ? symmetric_qparams : affine_qparams)(
        r, static_cast<int32_t>(range.min), static_cast<int32_t>(range.max)));
  }
  return qparams;
}

void require_qparams(const Granularity& g, const std::vector<QParams>& wanted,
                     const at::Tensor& scale, const at::Tensor& zero_point) {
  std::vector<float> scales;
  std::vector<int32_t> zero_points;
  for (const QParams& one : wanted) {
    scales.push_back(one.scale);
    zero_points.push_back(one.zero_point);
  }
  require(equal_bits(scale, dense(scales, g.channels(), at::kFloat)), "a chosen scale");
  require(equal_bits(zero_point, dense(zero_points, g.channels(), at::kInt)),
          "a chosen zero point");
}

std::tuple<at::Tensor, at::Tensor> call_choose(const Granularity& g, const at::Tensor& x,
                                               const CodeRange& range, bool symmetric) {
  switch (g.scheme) {
    case Scheme::per_tensor:
      return choose_qparams_per_tensor(x, range.min, range.max, symmetric);
    case Scheme::per_channel:
      return choose_qparams_per_channel(x, g.axis, range.min, range.max, symmetric);
    case Scheme::per_group:
      return choose_qparams_per_group(x, g.group_size, range.min, range.max, symmetric);
    case Scheme::per_token:
      return choose_qparams_per_token(x, range.min, range.max, symmetric);
  }
  std::abort();
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> call_dynamic(const Granularity& g,
                                                            const at::Tensor& x,
                                                            const CodeRange& range, bool symmetric,
                                                            at::ScalarType dtype) {
  if (g.scheme == Scheme::per_tensor) {
    return quantize_dynamic_per_tensor(x, range.min, range.max, symmetric, dtype);
  }
  if (g.scheme == Scheme::per_group) {
    return quantize_dynamic_per_group(x, g.group_size, range.min, range.max, symmetric, dtype);
  }
  return quantize_dynamic_per_token(x, range.min, range.max, symmetric, dtype);
}

void choose(Input& input) {
  const Granularity g(input);
  const at::ScalarType dtype = input.pick(kCodes);
  const CodeRange range = code_range(input, dtype);
  const bool symmetric = input.flip() && range.min < 0 && range.max > 0;
  const at::Tensor x = laid_out(input, floats(input, g.sizes, input.pick(kFloats)));
  const std::vector<QParams> wanted = chosen(g, x, range, symmetric);
  const auto [scale, zero_point] = call_choose(g, x, range, symmetric);
  require_qparams(g, wanted, scale, zero_point);
  if (g.scheme == Scheme::per_channel) return;

  const at::Tensor values = plain(x).to(at::kFloat);
  const float* from = values.const_data_ptr<float>();
  const auto [q, own_scale, own_zero_point] = call_dynamic(g, x, range, symmetric, dtype);
  require_qparams(g, wanted, own_scale, own_zero_point);
  require(equal_bits(q, defined<int32_t>(g, dtype,
                                         [&](int64_t i, int64_t c) {
                                           return quantized(from[i], wanted[c], range);
                                         })),
          "quantize_dynamic");
}

// The sums run in the order of elements, so no layout changes them.
void error(Input& input) {
  const Shape sizes = shape(input, 0);
  if (count_of(sizes) == 0) return;
  const at::Tensor original = laid_out(input, floats(input, sizes, input.pick(kFloats)));
  const at::Tensor approximation = laid_out(input, floats(input, sizes, input.pick(kFloats)));
  require(equal_bits(quantization_error(original, approximation),
                     quantization_error(original.contiguous(), approximation.contiguous())),
          "quantization_error");
}

}  // namespace

void test(Input input) {
  constexpr void (*kSubjects[])(Input&) = {quantize, dequantize, fake_quantize, choose, error};
  input.pick(kSubjects)(input);
}

}  // namespace torchquant::fuzz
