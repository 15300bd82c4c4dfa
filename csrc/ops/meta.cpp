// Meta kernels: the checks and the shapes of every operator, no data. torch.compile and
// torch.export see the operators through them.
#include <torch/library.h>

#include "outputs.h"

namespace torchquant::ops {
namespace {

std::tuple<Tensor, Tensor> choose_qparams_per_tensor_meta(const Tensor& input, int64_t quant_min,
                                                          int64_t quant_max, bool symmetric) {
  check_choose_qparams(input, quant_min, quant_max, symmetric);
  return new_qparams_per_tensor(input);
}

std::tuple<Tensor, Tensor> choose_qparams_per_channel_meta(const Tensor& input, int64_t axis,
                                                           int64_t quant_min, int64_t quant_max,
                                                           bool symmetric) {
  check_choose_qparams(input, quant_min, quant_max, symmetric);
  return new_qparams_per_channel(input, check_axis(input, axis));
}

std::tuple<Tensor, Tensor> choose_qparams_per_group_meta(const Tensor& input, int64_t group_size,
                                                         int64_t quant_min, int64_t quant_max,
                                                         bool symmetric) {
  check_choose_qparams(input, quant_min, quant_max, symmetric);
  check_group_size(input, group_size);
  return new_qparams_per_group(input, group_size);
}

std::tuple<Tensor, Tensor> choose_qparams_per_token_meta(const Tensor& input, int64_t quant_min,
                                                         int64_t quant_max, bool symmetric) {
  check_choose_qparams(input, quant_min, quant_max, symmetric);
  check_min_dim(input, "input", 1);
  return new_qparams_per_token(input);
}

Tensor quantize_per_tensor_meta(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                                int64_t quant_min, int64_t quant_max, ScalarType dtype) {
  check_quantize(input, quant_min, quant_max, dtype);
  check_qparams_per_tensor(input, scale, zero_point);
  return new_like(input, dtype);
}

Tensor quantize_per_channel_meta(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                                 int64_t axis, int64_t quant_min, int64_t quant_max,
                                 ScalarType dtype) {
  check_quantize(input, quant_min, quant_max, dtype);
  check_qparams_per_channel(input, scale, zero_point, axis);
  return new_like(input, dtype);
}

Tensor quantize_per_group_meta(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                               int64_t group_size, int64_t quant_min, int64_t quant_max,
                               ScalarType dtype) {
  check_quantize(input, quant_min, quant_max, dtype);
  check_qparams_per_group(input, scale, zero_point, group_size);
  return new_like(input, dtype);
}

Tensor quantize_per_token_meta(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                               int64_t quant_min, int64_t quant_max, ScalarType dtype) {
  check_quantize(input, quant_min, quant_max, dtype);
  check_qparams_per_token(input, scale, zero_point);
  return new_like(input, dtype);
}

Tensor dequantize_per_tensor_meta(const Tensor& input, const Tensor& scale,
                                  const Tensor& zero_point, ScalarType out_dtype) {
  check_dequantize(input, out_dtype);
  check_qparams_per_tensor(input, scale, zero_point);
  return new_like(input, out_dtype);
}

Tensor dequantize_per_channel_meta(const Tensor& input, const Tensor& scale,
                                   const Tensor& zero_point, int64_t axis, ScalarType out_dtype) {
  check_dequantize(input, out_dtype);
  check_qparams_per_channel(input, scale, zero_point, axis);
  return new_like(input, out_dtype);
}

Tensor dequantize_per_group_meta(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                                 int64_t group_size, ScalarType out_dtype) {
  check_dequantize(input, out_dtype);
  check_qparams_per_group(input, scale, zero_point, group_size);
  return new_like(input, out_dtype);
}

Tensor dequantize_per_token_meta(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                                 ScalarType out_dtype) {
  check_dequantize(input, out_dtype);
  check_qparams_per_token(input, scale, zero_point);
  return new_like(input, out_dtype);
}

std::tuple<Tensor, Tensor, Tensor> quantize_dynamic_per_tensor_meta(
    const Tensor& input, int64_t quant_min, int64_t quant_max, bool symmetric, ScalarType dtype) {
  check_quantize_dynamic(input, quant_min, quant_max, symmetric, dtype);
  return new_quantized(input, dtype, new_qparams_per_tensor(input));
}

std::tuple<Tensor, Tensor, Tensor> quantize_dynamic_per_token_meta(
    const Tensor& input, int64_t quant_min, int64_t quant_max, bool symmetric, ScalarType dtype) {
  check_quantize_dynamic(input, quant_min, quant_max, symmetric, dtype);
  check_min_dim(input, "input", 1);
  return new_quantized(input, dtype, new_qparams_per_token(input));
}

std::tuple<Tensor, Tensor, Tensor> quantize_dynamic_per_group_meta(
    const Tensor& input, int64_t group_size, int64_t quant_min, int64_t quant_max, bool symmetric,
    ScalarType dtype) {
  check_quantize_dynamic(input, quant_min, quant_max, symmetric, dtype);
  check_group_size(input, group_size);
  return new_quantized(input, dtype, new_qparams_per_group(input, group_size));
}

Tensor fake_quantize_per_tensor_meta(const Tensor& input, const Tensor& scale,
                                     const Tensor& zero_point, int64_t quant_min,
                                     int64_t quant_max) {
  check_fake_quantize(input, quant_min, quant_max);
  check_qparams_per_tensor(input, scale, zero_point);
  return new_like(input, input.scalar_type());
}

Tensor fake_quantize_per_channel_meta(const Tensor& input, const Tensor& scale,
                                      const Tensor& zero_point, int64_t axis, int64_t quant_min,
                                      int64_t quant_max) {
  check_fake_quantize(input, quant_min, quant_max);
  check_qparams_per_channel(input, scale, zero_point, axis);
  return new_like(input, input.scalar_type());
}

void fake_quantize_per_tensor_out_meta(const Tensor& input, const Tensor& scale,
                                       const Tensor& zero_point, int64_t quant_min,
                                       int64_t quant_max, Tensor& out) {
  check_out(out, fake_quantize_per_tensor_meta(input, scale, zero_point, quant_min, quant_max),
            input.scalar_type());
}

void fake_quantize_per_channel_out_meta(const Tensor& input, const Tensor& scale,
                                        const Tensor& zero_point, int64_t axis, int64_t quant_min,
                                        int64_t quant_max, Tensor& out) {
  check_out(out,
            fake_quantize_per_channel_meta(input, scale, zero_point, axis, quant_min, quant_max),
            input.scalar_type());
}

std::tuple<Tensor, Tensor> fake_quantize_per_tensor_backward_meta(
    const Tensor& grad, const Tensor& input, const Tensor& scale, const Tensor& zero_point,
    int64_t quant_min, int64_t quant_max, bool scale_requires_grad) {
  check_fake_quantize_backward(grad, input, quant_min, quant_max);
  check_qparams_per_tensor(input, scale, zero_point);
  return new_gradients(input, scale, scale_requires_grad);
}

std::tuple<Tensor, Tensor> fake_quantize_per_channel_backward_meta(
    const Tensor& grad, const Tensor& input, const Tensor& scale, const Tensor& zero_point,
    int64_t axis, int64_t quant_min, int64_t quant_max, bool scale_requires_grad) {
  check_fake_quantize_backward(grad, input, quant_min, quant_max);
  check_qparams_per_channel(input, scale, zero_point, axis);
  return new_gradients(input, scale, scale_requires_grad);
}

void quantize_per_tensor_out_meta(const Tensor& input, const Tensor& scale,
                                  const Tensor& zero_point, int64_t quant_min, int64_t quant_max,
                                  ScalarType dtype, Tensor& out) {
  check_out(out, quantize_per_tensor_meta(input, scale, zero_point, quant_min, quant_max, dtype),
            dtype);
}

void dequantize_per_tensor_out_meta(const Tensor& input, const Tensor& scale,
                                    const Tensor& zero_point, ScalarType out_dtype, Tensor& out) {
  check_out(out, dequantize_per_tensor_meta(input, scale, zero_point, out_dtype), out_dtype);
}

void quantize_per_channel_out_meta(const Tensor& input, const Tensor& scale,
                                   const Tensor& zero_point, int64_t axis, int64_t quant_min,
                                   int64_t quant_max, ScalarType dtype, Tensor& out) {
  check_out(out,
            quantize_per_channel_meta(input, scale, zero_point, axis, quant_min, quant_max, dtype),
            dtype);
}

void dequantize_per_channel_out_meta(const Tensor& input, const Tensor& scale,
                                     const Tensor& zero_point, int64_t axis, ScalarType out_dtype,
                                     Tensor& out) {
  check_out(out, dequantize_per_channel_meta(input, scale, zero_point, axis, out_dtype), out_dtype);
}

void quantize_per_group_out_meta(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                                 int64_t group_size, int64_t quant_min, int64_t quant_max,
                                 ScalarType dtype, Tensor& out) {
  check_out(
      out,
      quantize_per_group_meta(input, scale, zero_point, group_size, quant_min, quant_max, dtype),
      dtype);
}

void dequantize_per_group_out_meta(const Tensor& input, const Tensor& scale,
                                   const Tensor& zero_point, int64_t group_size,
                                   ScalarType out_dtype, Tensor& out) {
  check_out(out, dequantize_per_group_meta(input, scale, zero_point, group_size, out_dtype),
            out_dtype);
}

void quantize_per_token_out_meta(const Tensor& input, const Tensor& scale, const Tensor& zero_point,
                                 int64_t quant_min, int64_t quant_max, ScalarType dtype,
                                 Tensor& out) {
  check_out(out, quantize_per_token_meta(input, scale, zero_point, quant_min, quant_max, dtype),
            dtype);
}

void dequantize_per_token_out_meta(const Tensor& input, const Tensor& scale,
                                   const Tensor& zero_point, ScalarType out_dtype, Tensor& out) {
  check_out(out, dequantize_per_token_meta(input, scale, zero_point, out_dtype), out_dtype);
}

Tensor quantization_error_meta(const Tensor& original, const Tensor& approximation) {
  check_quantization_error(original, approximation);
  return new_errors(original);
}

Tensor pack_bits_meta(const Tensor& input, int64_t num_bits) {
  check_pack_bits(input, num_bits);
  return new_packed_bits(input, num_bits);
}

Tensor unpack_bits_meta(const Tensor& packed, int64_t num_bits, c10::SymInt last_dim,
                        ScalarType dtype) {
  check_unpack_bits(packed, num_bits, last_dim, dtype);
  return new_rows(packed, last_dim, dtype);
}

Tensor pack_weight_meta(const Tensor& weight) {
  check_pack_weight(weight);
  return new_packed_weight(weight);
}

Tensor unpack_weight_meta(const Tensor& packed, int64_t out_features, int64_t in_features) {
  check_unpack_weight(packed, out_features, in_features);
  return new_tensor(packed, {out_features, in_features}, at::kChar);
}

Tensor int8_matmul_meta(const Tensor& a, const Tensor& b) {
  check_int8_matmul(a, b);
  return new_product(a, b);
}

Tensor int8_matmul_packed_meta(const Tensor& a, const Tensor& packed_weight, int64_t out_features,
                               const std::optional<Tensor>& weight_sum) {
  check_int8_matmul_packed(a, packed_weight, out_features, weight_sum);
  return new_rows(a, out_features, at::kInt);
}

Tensor linear_dynamic_meta(const Tensor& input, const Tensor& packed_weight,
                           const Tensor& weight_scale, const Tensor& weight_sum,
                           const std::optional<Tensor>& bias, std::string_view activation) {
  check_linear_dynamic(input, packed_weight, weight_scale, weight_sum, bias, activation);
  return new_rows(input, weight_scale.sym_size(0), input.scalar_type());
}

Tensor linear_static_meta(const Tensor& input, const Tensor& input_scale,
                          const Tensor& input_zero_point, const Tensor& packed_weight,
                          const Tensor& weight_scale, const Tensor& weight_sum,
                          const std::optional<Tensor>& bias, std::string_view activation,
                          const std::optional<Tensor>& output_scale,
                          const std::optional<Tensor>& output_zero_point,
                          std::optional<ScalarType> output_dtype) {
  const ScalarType dtype = check_linear_static(input, input_scale, input_zero_point, packed_weight,
                                               weight_scale, weight_sum, bias, activation,
                                               output_scale, output_zero_point, output_dtype);
  return new_rows(input, weight_scale.sym_size(0), dtype);
}

void histogram_observe_meta(Tensor& counts, Tensor& range, const Tensor& input) {
  check_histogram_observe(counts, range, input);
}

std::tuple<Tensor, Tensor> histogram_qparams_meta(const Tensor& counts, const Tensor& range,
                                                  int64_t quant_min, int64_t quant_max,
                                                  bool symmetric, std::string_view method,
                                                  double percentile) {
  check_histogram_qparams(counts, range, quant_min, quant_max, symmetric, method, percentile);
  return new_qparams_per_tensor(counts);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, Meta, m) {
  m.impl("choose_qparams_per_tensor", &choose_qparams_per_tensor_meta);
  m.impl("choose_qparams_per_channel", &choose_qparams_per_channel_meta);
  m.impl("choose_qparams_per_group", &choose_qparams_per_group_meta);
  m.impl("choose_qparams_per_token", &choose_qparams_per_token_meta);
  m.impl("quantize_per_tensor", &quantize_per_tensor_meta);
  m.impl("quantize_per_channel", &quantize_per_channel_meta);
  m.impl("quantize_per_group", &quantize_per_group_meta);
  m.impl("quantize_per_token", &quantize_per_token_meta);
  m.impl("dequantize_per_tensor", &dequantize_per_tensor_meta);
  m.impl("dequantize_per_channel", &dequantize_per_channel_meta);
  m.impl("dequantize_per_group", &dequantize_per_group_meta);
  m.impl("dequantize_per_token", &dequantize_per_token_meta);
  m.impl("quantize_dynamic_per_tensor", &quantize_dynamic_per_tensor_meta);
  m.impl("quantize_dynamic_per_token", &quantize_dynamic_per_token_meta);
  m.impl("quantize_dynamic_per_group", &quantize_dynamic_per_group_meta);
  m.impl("fake_quantize_per_tensor", &fake_quantize_per_tensor_meta);
  m.impl("fake_quantize_per_tensor.out", &fake_quantize_per_tensor_out_meta);
  m.impl("fake_quantize_per_tensor_backward", &fake_quantize_per_tensor_backward_meta);
  m.impl("fake_quantize_per_channel", &fake_quantize_per_channel_meta);
  m.impl("fake_quantize_per_channel.out", &fake_quantize_per_channel_out_meta);
  m.impl("fake_quantize_per_channel_backward", &fake_quantize_per_channel_backward_meta);
  m.impl("quantize_per_tensor.out", &quantize_per_tensor_out_meta);
  m.impl("dequantize_per_tensor.out", &dequantize_per_tensor_out_meta);
  m.impl("quantize_per_channel.out", &quantize_per_channel_out_meta);
  m.impl("dequantize_per_channel.out", &dequantize_per_channel_out_meta);
  m.impl("quantize_per_group.out", &quantize_per_group_out_meta);
  m.impl("dequantize_per_group.out", &dequantize_per_group_out_meta);
  m.impl("quantize_per_token.out", &quantize_per_token_out_meta);
  m.impl("dequantize_per_token.out", &dequantize_per_token_out_meta);
  m.impl("quantization_error", &quantization_error_meta);
  m.impl("pack_bits", &pack_bits_meta);
  m.impl("unpack_bits", &unpack_bits_meta);
  m.impl("pack_weight", &pack_weight_meta);
  m.impl("unpack_weight", &unpack_weight_meta);
  m.impl("int8_matmul", &int8_matmul_meta);
  m.impl("int8_matmul_packed", &int8_matmul_packed_meta);
  m.impl("linear_dynamic", &linear_dynamic_meta);
  m.impl("linear_static", &linear_static_meta);
  m.impl("histogram_observe_", &histogram_observe_meta);
  m.impl("histogram_qparams", &histogram_qparams_meta);
}

}  // namespace torchquant::ops
