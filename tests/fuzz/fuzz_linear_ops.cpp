// Products and layers at any strides, against plain loops over int64 and math/affine.h.
#include "tensors.h"

namespace torchquant::fuzz {
namespace {

constexpr at::ScalarType kBytes[] = {at::kChar, at::kByte};

// Rows of int32, contiguous.
class Integers {
 public:
  explicit Integers(const at::Tensor& tensor)
      : tensor_(plain(tensor).to(at::kInt)), columns_(tensor.size(-1)) {}
  int32_t at(int64_t row, int64_t column) const {
    return tensor_.const_data_ptr<int32_t>()[row * columns_ + column];
  }

 private:
  at::Tensor tensor_;
  int64_t columns_;
};

void matmul(Input& input) {
  const int64_t batch = input.integer(0, 3), m = input.length(60), n = input.length(70);
  const int64_t k = input.flip() ? input.length(70) : input.integer(0, 600);
  const bool batched = input.flip();
  const Shape a_shape = batched ? Shape{batch, m, k} : Shape{m, k};
  const Shape b_shape = batched ? Shape{batch, k, n} : Shape{k, n};
  const at::Tensor a = laid_out(input, codes(input, a_shape, input.pick(kBytes)));
  const at::Tensor b = laid_out(input, codes(input, b_shape, input.pick(kBytes)));
  const Integers left(a), right(b);
  std::vector<int32_t> wanted;
  for (int64_t i = 0; i < (batched ? batch : 1); ++i) {
    for (int64_t row = 0; row < m; ++row) {
      for (int64_t column = 0; column < n; ++column) {
        int64_t sum = 0;
        for (int64_t j = 0; j < k; ++j) {
          sum += int64_t{left.at(i * m + row, j)} * right.at(i * k + j, column);
        }
        wanted.push_back(static_cast<int32_t>(sum));
      }
    }
  }
  const Shape shape = batched ? Shape{batch, m, n} : Shape{m, n};
  require(equal_bits(int8_matmul(a, b), dense(wanted, shape, at::kInt)), "int8_matmul");
}

// A layer, and rows to put through it.
struct Layer {
  int64_t rows, k, n;
  at::Tensor weight, packed, scale, sum;
  std::optional<at::Tensor> bias;
  std::string activation;

  explicit Layer(Input& input)
      : rows(input.length(60)),
        k(input.flip() ? input.length(70) : input.integer(0, 600)),
        n(input.length(90)),
        weight(codes(input, {n, k}, at::kChar)),
        packed(pack_weight(elsewhere(input, weight))),
        scale(laid_out(input, dense(input.scales(n), {n}, at::kFloat))),
        sum(elsewhere(input, weight.sum(1).to(at::kInt))),
        activation(input.flip() ? "relu" : "none") {
    if (input.flip()) bias = laid_out(input, floats(input, {n}, at::kFloat));
    if (input.flip()) packed = elsewhere(input, packed);
  }

  // What the contract says of quantized rows, in float32.
  at::Tensor output(const std::vector<int32_t>& q, const std::vector<QParams>& params) const {
    const Integers w(weight);
    const at::Tensor scales = plain(scale), biases = bias ? plain(*bias) : at::Tensor();
    std::vector<float> y;
    for (int64_t m = 0; m < rows; ++m) {
      for (int64_t j = 0; j < n; ++j) {
        int64_t sums = 0, weights = 0;
        for (int64_t i = 0; i < k; ++i) {
          sums += int64_t{q[m * k + i]} * w.at(j, i);
          weights += w.at(j, i);
        }
        const int32_t sum = subtract_product(static_cast<int32_t>(sums), params[m].zero_point,
                                             static_cast<int32_t>(weights));
        float value = rescale_value(sum, params[m].scale, scales.const_data_ptr<float>()[j]);
        if (bias) value = value + biases.const_data_ptr<float>()[j];
        y.push_back(activation == "relu" && value < 0 ? 0.0f : value);
      }
    }
    return dense(y, {rows, n}, at::kFloat);
  }
};

void weights(Input& input) {
  const Layer layer(input);
  require(equal_bits(unpack_weight(layer.packed, layer.n, layer.k), layer.weight), "unpack_weight");
  const at::Tensor a = laid_out(input, codes(input, {layer.rows, layer.k}, input.pick(kBytes)));
  const Integers left(a), right(layer.weight);
  std::vector<int32_t> wanted;
  for (int64_t m = 0; m < layer.rows; ++m) {
    for (int64_t j = 0; j < layer.n; ++j) {
      int64_t sum = 0;
      for (int64_t i = 0; i < layer.k; ++i) sum += int64_t{left.at(m, i)} * right.at(j, i);
      wanted.push_back(static_cast<int32_t>(sum));
    }
  }
  const at::Tensor product = dense(wanted, {layer.rows, layer.n}, at::kInt);
  require(equal_bits(int8_matmul_packed(a, layer.packed, layer.n), product), "int8_matmul_packed");
  require(equal_bits(int8_matmul_packed(a, layer.packed, layer.n, layer.sum), product),
          "int8_matmul_packed with sums");
}

void dynamic(Input& input) {
  const Layer layer(input);
  const at::ScalarType dtype = input.pick(kFloats);
  const at::Tensor x = laid_out(input, floats(input, {layer.rows, layer.k}, dtype));
  const at::Tensor values = plain(x).to(at::kFloat);
  const float* from = values.const_data_ptr<float>();
  std::vector<QParams> params;
  std::vector<int32_t> q;
  for (int64_t m = 0; m < layer.rows; ++m) {
    Range range = kEmptyRange;
    for (int64_t i = 0; i < layer.k; ++i) {
      const float value = from[m * layer.k + i];
      range = merge(range, {value, value, bits_of(value) & 0x7fffffff});
    }
    params.push_back(affine_qparams(range, 0, 255));
    for (int64_t i = 0; i < layer.k; ++i) {
      q.push_back(quantize_value(from[m * layer.k + i], 1.0f / params[m].scale,
                                 params[m].zero_point, 0, 255));
    }
  }
  const at::Tensor y =
      linear_dynamic(x, layer.packed, layer.scale, layer.sum, layer.bias, layer.activation);
  require(equal_bits(y, layer.output(q, params).to(dtype)), "linear_dynamic");
}

void fixed(Input& input) {
  const Layer layer(input);
  const bool of_bytes = input.flip(), to_bytes = input.flip();
  const at::ScalarType from = of_bytes ? input.pick(kBytes) : input.pick(kFloats);
  const at::ScalarType to = to_bytes ? input.pick(kBytes) : input.pick(kFloats);
  const Shape sizes = {layer.rows, layer.k};
  const at::Tensor x =
      laid_out(input, of_bytes ? codes(input, sizes, from) : floats(input, sizes, from));
  const QParams in = {input.scales(1)[0], input.zero_points(1, INT32_MAX)[0]};
  const QParams out = {input.scales(1)[0], input.zero_points(1, INT32_MAX)[0]};

  std::vector<int32_t> q;
  const at::Tensor values = plain(x).to(at::kFloat);
  for (int64_t i = 0; i < x.numel(); ++i) {
    const float value = values.const_data_ptr<float>()[i];
    q.push_back(of_bytes ? static_cast<int32_t>(value)
                         : quantize_value(value, 1.0f / in.scale, in.zero_point, 0, 255));
  }
  at::Tensor wanted = layer.output(q, std::vector<QParams>(layer.rows, in));
  std::optional<at::Tensor> output_scale, output_zero_point;
  if (to_bytes) {
    output_scale = at::scalar_tensor(out.scale, at::kFloat);
    output_zero_point = at::scalar_tensor(out.zero_point, at::kInt);
    const bool is_signed = to == at::kChar;
    std::vector<int32_t> requantized;
    for (int64_t i = 0; i < wanted.numel(); ++i) {
      requantized.push_back(quantize_value(wanted.const_data_ptr<float>()[i], 1.0f / out.scale,
                                           out.zero_point, is_signed ? -128 : 0,
                                           is_signed ? 127 : 255));
    }
    wanted = dense(requantized, {layer.rows, layer.n}, to);
  }
  const at::Tensor y =
      linear_static(x, at::scalar_tensor(in.scale, at::kFloat),
                    at::scalar_tensor(in.zero_point, at::kInt), layer.packed, layer.scale,
                    layer.sum, layer.bias, layer.activation, output_scale, output_zero_point, to);
  require(equal_bits(y, wanted.to(to)), "linear_static");
}

void bits(Input& input) {
  const int64_t width = input.integer(2, 8);
  const at::ScalarType dtype = input.pick(kBytes);
  const Shape sizes = shape(input, 1);
  // What fits so many bits: the shift is arithmetic for int8.
  const at::Tensor q = at::__rshift__(codes(input, sizes, dtype), 8 - width);
  const at::Tensor packed = elsewhere(input, pack_bits(elsewhere(input, q), width));
  require(equal_bits(unpack_bits(packed, width, sizes.back(), dtype), q),
          "unpack_bits of pack_bits");
}

}  // namespace

void test(Input input) {
  constexpr void (*kSubjects[])(Input&) = {matmul, weights, dynamic, fixed, bits};
  input.pick(kSubjects)(input);
}

}  // namespace torchquant::fuzz
