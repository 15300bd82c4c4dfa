// Layers of torchquant.h: torchquant.nn's, with the same results and refusals.
#include <ATen/ATen.h>

#include <cmath>
#include <string>
#include <tuple>

#include "torchquant.h"

namespace torchquant {
namespace {

constexpr int64_t kQuantMin = -128, kQuantMax = 127;
constexpr int64_t kMaxInFeatures = 65'793;  // above it sums of uint8 x int8 may not fit int32

void check_weight(const at::Tensor& weight) {
  TORCH_CHECK_VALUE(weight.defined() && weight.dim() == 2 && weight.is_floating_point(),
                    "weight must be a float matrix [out_features, in_features], but got ",
                    weight.defined() ? c10::str(weight.scalar_type(), " ", weight.sizes())
                                     : std::string("an undefined tensor"),
                    ": pass the float layer's weight");
  TORCH_CHECK_VALUE(!weight.is_meta(),
                    "weight must have data, but is on the meta device: load the model's weights "
                    "first");
  TORCH_CHECK_VALUE(weight.size(1) <= kMaxInFeatures, "weight must have at most ", kMaxInFeatures,
                    " inputs, or the int32 sums may overflow, but has ", weight.size(1),
                    ": leave the layer in float");
  TORCH_CHECK_VALUE(weight.to(at::kFloat).isfinite().all().item<bool>(),
                    "weight must be finite, but ", weight.sizes(),
                    " holds NaN or Inf (as float32): quantize a model whose weights are sound");
}

bool is_given(const std::optional<at::Tensor>& tensor) { return tensor && tensor->defined(); }

void check_bias(const std::optional<at::Tensor>& bias, int64_t out_features) {
  TORCH_CHECK_VALUE(
      !is_given(bias) ||
          (bias->is_floating_point() && bias->dim() == 1 && bias->size(0) == out_features),
      "bias must be a float tensor [", out_features, "], but got ",
      is_given(bias) ? c10::str(bias->scalar_type(), " ", bias->sizes()) : std::string(),
      ": pass the float layer's bias, or std::nullopt");
}

void check_activation(std::string_view activation) {
  TORCH_CHECK_VALUE(activation == "none" || activation == "relu",
                    "activation must be \"none\" or \"relu\", but got \"", activation,
                    "\": pass \"none\" and apply others to the output");
}

at::Tensor one_element(const at::Tensor& tensor, const char* name, at::ScalarType dtype) {
  TORCH_CHECK_VALUE(tensor.defined() && tensor.scalar_type() == dtype && tensor.numel() == 1, name,
                    " must be one ", dtype, ", but got ",
                    tensor.defined() ? c10::str(tensor.scalar_type(), " ", tensor.sizes())
                                     : std::string("an undefined tensor"),
                    ": pass what Histogram::qparams returned");
  return tensor.detach().reshape({}).clone();
}

}  // namespace

QuantizedLinear quantize_linear(const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                                std::string_view activation) {
  check_weight(weight);
  check_bias(bias, weight.size(0));
  check_activation(activation);
  const at::Tensor whole = weight.detach().to(at::kFloat);
  const auto [scale, zero_point] =
      choose_qparams_per_channel(whole, 0, kQuantMin, kQuantMax, /*symmetric=*/true);
  const at::Tensor codes =
      quantize_per_channel(whole, scale, zero_point, 0, kQuantMin, kQuantMax, at::kChar);
  QuantizedLinear layer;
  layer.in_features = weight.size(1);
  layer.out_features = weight.size(0);
  layer.activation = activation;
  layer.packed_weight = pack_weight(codes);
  layer.weight_scale = scale;
  layer.weight_sum = codes.sum(1, /*keepdim=*/false, at::kInt);
  if (is_given(bias)) layer.bias = bias->detach().to(at::kFloat).clone();
  if (whole.numel() == 0) {
    layer.weight_snr_db = INFINITY;  // nothing was lost
  } else {
    const at::Tensor restored = dequantize_per_channel(codes, scale, zero_point, 0);
    layer.weight_snr_db = quantization_error(whole, restored)[3].item<double>();
  }
  return layer;
}

QuantizedLinear quantize_linear_static(const at::Tensor& weight,
                                       const std::optional<at::Tensor>& bias,
                                       const at::Tensor& input_scale,
                                       const at::Tensor& input_zero_point,
                                       std::string_view activation) {
  const at::Tensor scale = one_element(input_scale, "input_scale", at::kFloat);
  const at::Tensor zero_point = one_element(input_zero_point, "input_zero_point", at::kInt);
  const float step = scale.item<float>();
  TORCH_CHECK_VALUE(step > 0 && step < INFINITY,
                    "input_scale must be positive and finite, but got ", step,
                    ": pass what Histogram::qparams returned");
  const int zero = zero_point.item<int>();
  TORCH_CHECK_VALUE(zero >= 0 && zero <= 255, "input_zero_point must lie in [0, 255], but got ",
                    zero, ": pass what Histogram::qparams returned");
  QuantizedLinear layer = quantize_linear(weight, bias, activation);
  layer.scheme = "static";
  layer.input_scale = scale;
  layer.input_zero_point = zero_point;
  return layer;
}

at::Tensor QuantizedLinear::weight(at::ScalarType dtype) const {
  const at::Tensor codes = unpack_weight(packed_weight, out_features, in_features);
  return dequantize_per_channel(codes, weight_scale, at::zeros_like(weight_sum), 0, dtype);
}

at::Tensor QuantizedLinear::forward(const at::Tensor& input) const {
  TORCH_CHECK(input.dim() > 0 && input.size(-1) == in_features, "input must have ", in_features,
              " features in its last dimension, but got shape ", input.sizes(),
              ": this layer was made for in_features=", in_features);
  if (scheme == "dynamic") {
    return linear_dynamic(input, packed_weight, weight_scale, weight_sum, bias, activation);
  }
  if (scheme == "static") {
    TORCH_CHECK(input_scale && input_zero_point,
                "a static layer must have input_scale and input_zero_point, but has not: make it "
                "by quantize_linear_static");
    return linear_static(input, *input_scale, *input_zero_point, packed_weight, weight_scale,
                         weight_sum, bias, activation, output_scale, output_zero_point,
                         output_dtype);
  }
  TORCH_CHECK(scheme == "weight_only",
              "scheme must be \"dynamic\", \"static\" or \"weight_only\", but is \"", scheme, "\"");
  TORCH_CHECK(input.is_floating_point() && input.scalar_type() != at::kDouble,
              "input must be float32, float16 or bfloat16, but got ", input.scalar_type());
  const at::ScalarType dtype = input.scalar_type();
  const std::optional<at::Tensor> cast = bias ? std::optional(bias->to(dtype)) : std::nullopt;
  const at::Tensor output = at::linear(input, weight(dtype), cast);
  return activation == "relu" ? at::relu(output) : output;
}

}  // namespace torchquant
