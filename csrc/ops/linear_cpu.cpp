#include <torch/library.h>

#include "channels.h"
#include "gemm.h"
#include "layer.h"

namespace torchquant::ops {
namespace {

// The epilogue without the terms of the rows.
kernels::Epilogue epilogue_of(const Layer& layer) {
  kernels::Epilogue e = {};
  e.weight_sum = layer.sum.const_data_ptr<int32_t>();
  e.weight_scale = layer.scale.const_data_ptr<float>();
  e.bias = layer.bias.defined() ? layer.bias.const_data_ptr<float>() : nullptr;
  e.relu = layer.relu;
  e.type = kernel_output(layer.out.scalar_type());
  return e;
}

Tensor run_layer(const Layer& layer, const kernels::MatmulKernels& kernel, const Tensor& input,
                 const std::optional<kernels::QuantizeParams>& params,
                 const kernels::Epilogue& epilogue) {
  const Tensor& out = layer.out;
  if (out.numel() == 0) return out;
  const Tensor x = input.contiguous();
  const int64_t depth = x.size(-1);
  const Activations activations = {x.const_data_ptr(), depth * x.element_size(), x.scalar_type(),
                                   params};
  run({kernel, out.numel() / out.size(-1), depth, out.size(-1), activations,
       layer.weight.const_data_ptr<int8_t>(), nullptr, epilogue, out.mutable_data_ptr(),
       out.element_size()});
  return out;
}

Tensor linear_dynamic_cpu(const Tensor& input, const Tensor& packed_weight,
                          const Tensor& weight_scale, const Tensor& weight_sum,
                          const std::optional<Tensor>& bias, std::string_view activation) {
  check_linear_dynamic(input, packed_weight, weight_scale, weight_sum, bias, activation);
  const Layer layer = new_layer(input, packed_weight, weight_scale, weight_sum, bias, activation,
                                input.scalar_type());
  return run_layer(layer, kernels::active().matmul, input, std::nullopt, epilogue_of(layer));
}

// One value of each. memcpy: tensors from files lie at any address.
QParams read_qparams(const Tensor& scale, const Tensor& zero_point) {
  QParams params;
  std::memcpy(&params.scale, scale.const_data_ptr(), sizeof(params.scale));
  std::memcpy(&params.zero_point, zero_point.const_data_ptr(), sizeof(params.zero_point));
  return params;
}

kernels::QuantizeParams quantize_params(QParams params, ScalarType dtype) {
  const CodeLimits limits = code_limits(dtype);
  return {1.0f / params.scale, params.zero_point, static_cast<int32_t>(limits.min),
          static_cast<int32_t>(limits.max)};
}

Tensor linear_static_cpu(const Tensor& input, const Tensor& input_scale,
                         const Tensor& input_zero_point, const Tensor& packed_weight,
                         const Tensor& weight_scale, const Tensor& weight_sum,
                         const std::optional<Tensor>& bias, std::string_view activation,
                         const std::optional<Tensor>& output_scale,
                         const std::optional<Tensor>& output_zero_point,
                         std::optional<ScalarType> output_dtype) {
  const ScalarType out_dtype = check_linear_static(
      input, input_scale, input_zero_point, packed_weight, weight_scale, weight_sum, bias,
      activation, output_scale, output_zero_point, output_dtype);
  const DefaultFloats floats;
  const Layer layer =
      new_layer(input, packed_weight, weight_scale, weight_sum, bias, activation, out_dtype);
  const QParams from = read_qparams(input_scale, input_zero_point);
  const QParams to = output_scale ? read_qparams(*output_scale, *output_zero_point) : QParams{1, 0};
  const int32_t zero_points[] = {from.zero_point, to.zero_point};
  const kernels::MatmulKernels& kernel = kernels_for(zero_points, 2).matmul;

  kernels::Epilogue epilogue = epilogue_of(layer);
  const int32_t shift = input.scalar_type() == at::kChar ? kernel.signed_offset : 0;
  const int32_t zero_point = subtract_product(from.zero_point, shift, -1);
  epilogue.row_zero_point = &zero_point;
  epilogue.row_scale = &from.scale;
  epilogue.requantize = quantize_params(to, out_dtype);
  return run_layer(layer, kernel, input, quantize_params(from, at::kByte), epilogue);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CPU, m) {
  m.impl("linear_dynamic", &linear_dynamic_cpu);
  m.impl("linear_static", &linear_static_cpu);
}

}  // namespace torchquant::ops
