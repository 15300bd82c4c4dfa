#include <torch/library.h>

#include "cuda_product.h"
#include "layer.h"

namespace torchquant::ops {
namespace {

using kernels::kTokenMax;
using kernels::kTokenMin;

// Activations of the product, and the parameters of their rows, or of all where step is 0.
struct Activations {
  Tensor codes;
  Tensor scale;
  Tensor zero_point;
  int64_t step;
  int32_t shift;
};

// Room for the codes of `rows` rows of `depth`, padded. Nothing fills the padding: in depth it
// meets the zeros of the weight's, and rows too many are left out of the result.
Tensor new_codes(cuda::Queue queue, const Tensor& input, int64_t rows, int64_t depth) {
  return at::empty({activation_rows(queue, rows), padded_16(depth)},
                   input.options().dtype(at::kChar));
}

Activations quantize_tokens(cuda::Queue queue, const Tensor& input) {
  const int64_t rows = row_count(input), depth = input.size(-1);
  const Tensor codes = new_codes(queue, input, rows, depth);
  const Tensor scale = at::empty({rows}, input.options().dtype(at::kFloat));
  const Tensor zero_point = at::empty({rows}, input.options().dtype(at::kInt));
  const DeviceElements x(input);
  cuda::quantize_rows(queue, {x.elements(), rows, depth, std::max<int64_t>(1, depth), 1},
                      kernel_float(input.scalar_type()), codes.mutable_data_ptr(), codes.size(1),
                      kernels::Int::i8, {kTokenMin, kTokenMax, false}, kShift,
                      scale.mutable_data_ptr<float>(), zero_point.mutable_data_ptr<int32_t>());
  return {codes, scale, zero_point, 1, kShift};
}

// With the one scale and zero point of a static layer.
Tensor quantize_all(cuda::Queue queue, const Tensor& input, const Tensor& scale,
                    const Tensor& zero_point) {
  const int64_t rows = row_count(input), depth = input.size(-1);
  const bool is_whole = depth == padded_16(depth);
  const Tensor codes = is_whole ? new_codes(queue, input, rows, depth)
                                : at::empty({rows, depth}, input.options().dtype(at::kChar));
  const DeviceElements x(input);
  if (input.numel() > 0) {
    cuda::quantize(queue, x.elements(), kernel_float(input.scalar_type()), codes.mutable_data_ptr(),
                   kernels::Int::i8, input.numel(), channels_of(per_tensor_view(input)),
                   DeviceParams(scale, zero_point).params(kTokenMin, kTokenMax), kShift);
  }
  return is_whole ? codes : operand(queue, codes, activation_rows(queue, rows));
}

Activations static_activations(cuda::Queue queue, const Tensor& input, const Tensor& scale,
                               const Tensor& zero_point) {
  const Tensor one_scale = dense(scale), one_zero_point = dense(zero_point);
  const int32_t shift = input.scalar_type() == at::kChar ? 0 : kShift;
  if (!is_byte(input.scalar_type())) {
    return {quantize_all(queue, input, one_scale, one_zero_point), one_scale, one_zero_point, 0,
            shift};
  }
  const int64_t rows = row_count(input);
  const Tensor matrix = input.reshape({rows, input.size(-1)});
  return {operand(queue, matrix, activation_rows(queue, rows)), one_scale, one_zero_point, 0,
          shift};
}

// Where a card may read them.
Layer with_aligned(Layer layer) {
  layer.scale = aligned(layer.scale);
  layer.sum = aligned(layer.sum);
  if (layer.bias.defined()) layer.bias = aligned(layer.bias);
  return layer;
}

cuda::SumsEpilogue epilogue_of(const Layer& layer, const Activations& activations) {
  cuda::SumsEpilogue e = {};
  e.row_zero_point = activations.zero_point.const_data_ptr<int32_t>();
  e.row_scale = activations.scale.const_data_ptr<float>();
  e.row_step = activations.step;
  e.shift = activations.shift;
  e.weight_sum = layer.sum.const_data_ptr<int32_t>();
  e.weight_scale = layer.scale.const_data_ptr<float>();
  e.bias = layer.bias.defined() ? layer.bias.const_data_ptr<float>() : nullptr;
  e.relu = layer.relu;
  return e;
}

Tensor linear_dynamic_cuda(const Tensor& input, const Tensor& packed_weight,
                           const Tensor& weight_scale, const Tensor& weight_sum,
                           const std::optional<Tensor>& bias, std::string_view activation) {
  check_linear_dynamic(input, packed_weight, weight_scale, weight_sum, bias, activation);
  const Layer layer = with_aligned(new_layer(input, packed_weight, weight_scale, weight_sum, bias,
                                             activation, input.scalar_type()));
  if (layer.out.numel() == 0) return layer.out;
  on_device_of(input, [&](cuda::Queue queue) {
    const Activations activations = quantize_tokens(queue, input);
    multiply_packed(queue, activations.codes, layer.weight, input.size(-1),
                    epilogue_of(layer, activations), layer.out);
  });
  return layer.out;
}

Tensor linear_static_cuda(const Tensor& input, const Tensor& input_scale,
                          const Tensor& input_zero_point, const Tensor& packed_weight,
                          const Tensor& weight_scale, const Tensor& weight_sum,
                          const std::optional<Tensor>& bias, std::string_view activation,
                          const std::optional<Tensor>& output_scale,
                          const std::optional<Tensor>& output_zero_point,
                          std::optional<ScalarType> output_dtype) {
  const ScalarType out_dtype = check_linear_static(
      input, input_scale, input_zero_point, packed_weight, weight_scale, weight_sum, bias,
      activation, output_scale, output_zero_point, output_dtype);
  const Layer layer = with_aligned(
      new_layer(input, packed_weight, weight_scale, weight_sum, bias, activation, out_dtype));
  if (layer.out.numel() == 0) return layer.out;
  on_device_of(input, [&](cuda::Queue queue) {
    const Activations activations = static_activations(queue, input, input_scale, input_zero_point);
    cuda::SumsEpilogue epilogue = epilogue_of(layer, activations);
    const Tensor to_scale = output_scale ? dense(*output_scale) : Tensor();
    const Tensor to_zero_point = output_scale ? dense(*output_zero_point) : Tensor();
    if (output_scale) {
      epilogue.output_scale = to_scale.const_data_ptr<float>();
      epilogue.output_zero_point = to_zero_point.const_data_ptr<int32_t>();
    }
    multiply_packed(queue, activations.codes, layer.weight, input.size(-1), epilogue, layer.out);
  });
  return layer.out;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CUDA, m) {
  m.impl("linear_dynamic", &linear_dynamic_cuda);
  m.impl("linear_static", &linear_static_cuda);
}

}  // namespace torchquant::ops
