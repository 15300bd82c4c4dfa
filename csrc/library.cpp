// Every schema of torchquant, on one screen, and the C++ functions of torchquant.h above them.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "kernels/kernels.h"
#include "torchquant.h"

namespace torchquant {
namespace {

std::string active_kernels_name() { return kernels::active().name; }

}  // namespace

// One schema a line, however long: the list is read and searched as a whole.
// clang-format off
TORCH_LIBRARY(torchquant, m) {
  m.def("choose_qparams_per_tensor(Tensor input, int quant_min, int quant_max, bool symmetric) -> (Tensor scale, Tensor zero_point)");
  m.def("choose_qparams_per_channel(Tensor input, int axis, int quant_min, int quant_max, bool symmetric) -> (Tensor scale, Tensor zero_point)");
  m.def("choose_qparams_per_group(Tensor input, int group_size, int quant_min, int quant_max, bool symmetric) -> (Tensor scale, Tensor zero_point)");
  m.def("choose_qparams_per_token(Tensor input, int quant_min, int quant_max, bool symmetric) -> (Tensor scale, Tensor zero_point)");
  m.def("quantize_per_tensor(Tensor input, Tensor scale, Tensor zero_point, int quant_min, int quant_max, ScalarType dtype) -> Tensor");
  m.def("quantize_per_tensor.out(Tensor input, Tensor scale, Tensor zero_point, int quant_min, int quant_max, ScalarType dtype, *, Tensor(a!) out) -> ()");
  m.def("quantize_per_channel(Tensor input, Tensor scale, Tensor zero_point, int axis, int quant_min, int quant_max, ScalarType dtype) -> Tensor");
  m.def("quantize_per_channel.out(Tensor input, Tensor scale, Tensor zero_point, int axis, int quant_min, int quant_max, ScalarType dtype, *, Tensor(a!) out) -> ()");
  m.def("quantize_per_group(Tensor input, Tensor scale, Tensor zero_point, int group_size, int quant_min, int quant_max, ScalarType dtype) -> Tensor");
  m.def("quantize_per_group.out(Tensor input, Tensor scale, Tensor zero_point, int group_size, int quant_min, int quant_max, ScalarType dtype, *, Tensor(a!) out) -> ()");
  m.def("quantize_per_token(Tensor input, Tensor scale, Tensor zero_point, int quant_min, int quant_max, ScalarType dtype) -> Tensor");
  m.def("quantize_per_token.out(Tensor input, Tensor scale, Tensor zero_point, int quant_min, int quant_max, ScalarType dtype, *, Tensor(a!) out) -> ()");
  m.def("dequantize_per_tensor(Tensor input, Tensor scale, Tensor zero_point, *, ScalarType out_dtype=float) -> Tensor");
  m.def("dequantize_per_tensor.out(Tensor input, Tensor scale, Tensor zero_point, *, ScalarType out_dtype=float, Tensor(a!) out) -> ()");
  m.def("dequantize_per_channel(Tensor input, Tensor scale, Tensor zero_point, int axis, *, ScalarType out_dtype=float) -> Tensor");
  m.def("dequantize_per_channel.out(Tensor input, Tensor scale, Tensor zero_point, int axis, *, ScalarType out_dtype=float, Tensor(a!) out) -> ()");
  m.def("dequantize_per_group(Tensor input, Tensor scale, Tensor zero_point, int group_size, *, ScalarType out_dtype=float) -> Tensor");
  m.def("dequantize_per_group.out(Tensor input, Tensor scale, Tensor zero_point, int group_size, *, ScalarType out_dtype=float, Tensor(a!) out) -> ()");
  m.def("dequantize_per_token(Tensor input, Tensor scale, Tensor zero_point, *, ScalarType out_dtype=float) -> Tensor");
  m.def("dequantize_per_token.out(Tensor input, Tensor scale, Tensor zero_point, *, ScalarType out_dtype=float, Tensor(a!) out) -> ()");
  m.def("quantize_dynamic_per_tensor(Tensor input, int quant_min, int quant_max, bool symmetric, ScalarType dtype) -> (Tensor, Tensor scale, Tensor zero_point)");
  m.def("quantize_dynamic_per_token(Tensor input, int quant_min, int quant_max, bool symmetric, ScalarType dtype) -> (Tensor, Tensor scale, Tensor zero_point)");
  m.def("quantize_dynamic_per_group(Tensor input, int group_size, int quant_min, int quant_max, bool symmetric, ScalarType dtype) -> (Tensor, Tensor scale, Tensor zero_point)");
  m.def("fake_quantize_per_tensor(Tensor input, Tensor scale, Tensor zero_point, int quant_min, int quant_max) -> Tensor");
  m.def("fake_quantize_per_tensor.out(Tensor input, Tensor scale, Tensor zero_point, int quant_min, int quant_max, *, Tensor(a!) out) -> ()");
  m.def("fake_quantize_per_tensor_backward(Tensor grad, Tensor input, Tensor scale, Tensor zero_point, int quant_min, int quant_max, bool scale_requires_grad) -> (Tensor, Tensor)");
  m.def("fake_quantize_per_channel(Tensor input, Tensor scale, Tensor zero_point, int axis, int quant_min, int quant_max) -> Tensor");
  m.def("fake_quantize_per_channel.out(Tensor input, Tensor scale, Tensor zero_point, int axis, int quant_min, int quant_max, *, Tensor(a!) out) -> ()");
  m.def("fake_quantize_per_channel_backward(Tensor grad, Tensor input, Tensor scale, Tensor zero_point, int axis, int quant_min, int quant_max, bool scale_requires_grad) -> (Tensor, Tensor)");
  m.def("quantization_error(Tensor original, Tensor approximation) -> Tensor");
  m.def("pack_bits(Tensor input, int num_bits) -> Tensor");
  m.def("unpack_bits(Tensor packed, int num_bits, SymInt last_dim, ScalarType dtype) -> Tensor");
  m.def("pack_weight(Tensor weight) -> Tensor");
  m.def("unpack_weight(Tensor packed, int out_features, int in_features) -> Tensor");
  m.def("int8_matmul(Tensor a, Tensor b) -> Tensor");
  m.def("int8_matmul_packed(Tensor a, Tensor packed_weight, int out_features, Tensor? weight_sum=None) -> Tensor");
  m.def("linear_dynamic(Tensor input, Tensor packed_weight, Tensor weight_scale, Tensor weight_sum, Tensor? bias=None, str activation=\"none\") -> Tensor");
  m.def("linear_static(Tensor input, Tensor input_scale, Tensor input_zero_point, Tensor packed_weight, Tensor weight_scale, Tensor weight_sum, Tensor? bias=None, str activation=\"none\", Tensor? output_scale=None, Tensor? output_zero_point=None, ScalarType? output_dtype=None) -> Tensor");
  m.def("histogram_observe_(Tensor(a!) counts, Tensor(b!) range, Tensor input) -> ()");
  m.def("histogram_qparams(Tensor counts, Tensor range, int quant_min, int quant_max, bool symmetric, str method, float percentile) -> (Tensor scale, Tensor zero_point)");
  m.def("active_kernels() -> str");
}
// clang-format on

TORCH_LIBRARY_IMPL(torchquant, CompositeExplicitAutograd, m) {
  m.impl("active_kernels", &active_kernels_name);
}

namespace {

// The dispatcher's entry of the operator that `Function` stands for, looked up once.
template <auto Function, class Signature = std::remove_pointer_t<decltype(Function)>>
const c10::TypedOperatorHandle<Signature>& entry(const char* name, const char* overload = "") {
  static const auto handle =
      c10::Dispatcher::singleton().findSchemaOrThrow(name, overload).template typed<Signature>();
  return handle;
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> choose_qparams_per_tensor(const at::Tensor& input,
                                                             int64_t quant_min, int64_t quant_max,
                                                             bool symmetric) {
  return entry<choose_qparams_per_tensor>("torchquant::choose_qparams_per_tensor")
      .call(input, quant_min, quant_max, symmetric);
}

std::tuple<at::Tensor, at::Tensor> choose_qparams_per_channel(const at::Tensor& input, int64_t axis,
                                                              int64_t quant_min, int64_t quant_max,
                                                              bool symmetric) {
  return entry<choose_qparams_per_channel>("torchquant::choose_qparams_per_channel")
      .call(input, axis, quant_min, quant_max, symmetric);
}

std::tuple<at::Tensor, at::Tensor> choose_qparams_per_group(const at::Tensor& input,
                                                            int64_t group_size, int64_t quant_min,
                                                            int64_t quant_max, bool symmetric) {
  return entry<choose_qparams_per_group>("torchquant::choose_qparams_per_group")
      .call(input, group_size, quant_min, quant_max, symmetric);
}

std::tuple<at::Tensor, at::Tensor> choose_qparams_per_token(const at::Tensor& input,
                                                            int64_t quant_min, int64_t quant_max,
                                                            bool symmetric) {
  return entry<choose_qparams_per_token>("torchquant::choose_qparams_per_token")
      .call(input, quant_min, quant_max, symmetric);
}

at::Tensor quantize_per_tensor(const at::Tensor& input, const at::Tensor& scale,
                               const at::Tensor& zero_point, int64_t quant_min, int64_t quant_max,
                               at::ScalarType dtype) {
  return entry<quantize_per_tensor>("torchquant::quantize_per_tensor")
      .call(input, scale, zero_point, quant_min, quant_max, dtype);
}

at::Tensor quantize_per_channel(const at::Tensor& input, const at::Tensor& scale,
                                const at::Tensor& zero_point, int64_t axis, int64_t quant_min,
                                int64_t quant_max, at::ScalarType dtype) {
  return entry<quantize_per_channel>("torchquant::quantize_per_channel")
      .call(input, scale, zero_point, axis, quant_min, quant_max, dtype);
}

at::Tensor quantize_per_group(const at::Tensor& input, const at::Tensor& scale,
                              const at::Tensor& zero_point, int64_t group_size, int64_t quant_min,
                              int64_t quant_max, at::ScalarType dtype) {
  return entry<quantize_per_group>("torchquant::quantize_per_group")
      .call(input, scale, zero_point, group_size, quant_min, quant_max, dtype);
}

at::Tensor quantize_per_token(const at::Tensor& input, const at::Tensor& scale,
                              const at::Tensor& zero_point, int64_t quant_min, int64_t quant_max,
                              at::ScalarType dtype) {
  return entry<quantize_per_token>("torchquant::quantize_per_token")
      .call(input, scale, zero_point, quant_min, quant_max, dtype);
}

at::Tensor dequantize_per_tensor(const at::Tensor& input, const at::Tensor& scale,
                                 const at::Tensor& zero_point, at::ScalarType out_dtype) {
  return entry<dequantize_per_tensor>("torchquant::dequantize_per_tensor")
      .call(input, scale, zero_point, out_dtype);
}

at::Tensor dequantize_per_channel(const at::Tensor& input, const at::Tensor& scale,
                                  const at::Tensor& zero_point, int64_t axis,
                                  at::ScalarType out_dtype) {
  return entry<dequantize_per_channel>("torchquant::dequantize_per_channel")
      .call(input, scale, zero_point, axis, out_dtype);
}

at::Tensor dequantize_per_group(const at::Tensor& input, const at::Tensor& scale,
                                const at::Tensor& zero_point, int64_t group_size,
                                at::ScalarType out_dtype) {
  return entry<dequantize_per_group>("torchquant::dequantize_per_group")
      .call(input, scale, zero_point, group_size, out_dtype);
}

at::Tensor dequantize_per_token(const at::Tensor& input, const at::Tensor& scale,
                                const at::Tensor& zero_point, at::ScalarType out_dtype) {
  return entry<dequantize_per_token>("torchquant::dequantize_per_token")
      .call(input, scale, zero_point, out_dtype);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> quantize_dynamic_per_tensor(const at::Tensor& input,
                                                                           int64_t quant_min,
                                                                           int64_t quant_max,
                                                                           bool symmetric,
                                                                           at::ScalarType dtype) {
  return entry<quantize_dynamic_per_tensor>("torchquant::quantize_dynamic_per_tensor")
      .call(input, quant_min, quant_max, symmetric, dtype);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> quantize_dynamic_per_token(const at::Tensor& input,
                                                                          int64_t quant_min,
                                                                          int64_t quant_max,
                                                                          bool symmetric,
                                                                          at::ScalarType dtype) {
  return entry<quantize_dynamic_per_token>("torchquant::quantize_dynamic_per_token")
      .call(input, quant_min, quant_max, symmetric, dtype);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> quantize_dynamic_per_group(
    const at::Tensor& input, int64_t group_size, int64_t quant_min, int64_t quant_max,
    bool symmetric, at::ScalarType dtype) {
  return entry<quantize_dynamic_per_group>("torchquant::quantize_dynamic_per_group")
      .call(input, group_size, quant_min, quant_max, symmetric, dtype);
}

at::Tensor fake_quantize_per_tensor(const at::Tensor& input, const at::Tensor& scale,
                                    const at::Tensor& zero_point, int64_t quant_min,
                                    int64_t quant_max) {
  return entry<fake_quantize_per_tensor>("torchquant::fake_quantize_per_tensor")
      .call(input, scale, zero_point, quant_min, quant_max);
}

void fake_quantize_per_tensor_out(const at::Tensor& input, const at::Tensor& scale,
                                  const at::Tensor& zero_point, int64_t quant_min,
                                  int64_t quant_max, at::Tensor& out) {
  entry<fake_quantize_per_tensor_out>("torchquant::fake_quantize_per_tensor", "out")
      .call(input, scale, zero_point, quant_min, quant_max, out);
}

std::tuple<at::Tensor, at::Tensor> fake_quantize_per_tensor_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& scale,
    const at::Tensor& zero_point, int64_t quant_min, int64_t quant_max, bool scale_requires_grad) {
  return entry<fake_quantize_per_tensor_backward>("torchquant::fake_quantize_per_tensor_backward")
      .call(grad, input, scale, zero_point, quant_min, quant_max, scale_requires_grad);
}

at::Tensor fake_quantize_per_channel(const at::Tensor& input, const at::Tensor& scale,
                                     const at::Tensor& zero_point, int64_t axis, int64_t quant_min,
                                     int64_t quant_max) {
  return entry<fake_quantize_per_channel>("torchquant::fake_quantize_per_channel")
      .call(input, scale, zero_point, axis, quant_min, quant_max);
}

void fake_quantize_per_channel_out(const at::Tensor& input, const at::Tensor& scale,
                                   const at::Tensor& zero_point, int64_t axis, int64_t quant_min,
                                   int64_t quant_max, at::Tensor& out) {
  entry<fake_quantize_per_channel_out>("torchquant::fake_quantize_per_channel", "out")
      .call(input, scale, zero_point, axis, quant_min, quant_max, out);
}

std::tuple<at::Tensor, at::Tensor> fake_quantize_per_channel_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& scale,
    const at::Tensor& zero_point, int64_t axis, int64_t quant_min, int64_t quant_max,
    bool scale_requires_grad) {
  return entry<fake_quantize_per_channel_backward>("torchquant::fake_quantize_per_channel_backward")
      .call(grad, input, scale, zero_point, axis, quant_min, quant_max, scale_requires_grad);
}

void quantize_per_tensor_out(const at::Tensor& input, const at::Tensor& scale,
                             const at::Tensor& zero_point, int64_t quant_min, int64_t quant_max,
                             at::ScalarType dtype, at::Tensor& out) {
  entry<quantize_per_tensor_out>("torchquant::quantize_per_tensor", "out")
      .call(input, scale, zero_point, quant_min, quant_max, dtype, out);
}

void dequantize_per_tensor_out(const at::Tensor& input, const at::Tensor& scale,
                               const at::Tensor& zero_point, at::ScalarType out_dtype,
                               at::Tensor& out) {
  entry<dequantize_per_tensor_out>("torchquant::dequantize_per_tensor", "out")
      .call(input, scale, zero_point, out_dtype, out);
}

void quantize_per_channel_out(const at::Tensor& input, const at::Tensor& scale,
                              const at::Tensor& zero_point, int64_t axis, int64_t quant_min,
                              int64_t quant_max, at::ScalarType dtype, at::Tensor& out) {
  entry<quantize_per_channel_out>("torchquant::quantize_per_channel", "out")
      .call(input, scale, zero_point, axis, quant_min, quant_max, dtype, out);
}

void dequantize_per_channel_out(const at::Tensor& input, const at::Tensor& scale,
                                const at::Tensor& zero_point, int64_t axis,
                                at::ScalarType out_dtype, at::Tensor& out) {
  entry<dequantize_per_channel_out>("torchquant::dequantize_per_channel", "out")
      .call(input, scale, zero_point, axis, out_dtype, out);
}

void quantize_per_group_out(const at::Tensor& input, const at::Tensor& scale,
                            const at::Tensor& zero_point, int64_t group_size, int64_t quant_min,
                            int64_t quant_max, at::ScalarType dtype, at::Tensor& out) {
  entry<quantize_per_group_out>("torchquant::quantize_per_group", "out")
      .call(input, scale, zero_point, group_size, quant_min, quant_max, dtype, out);
}

void dequantize_per_group_out(const at::Tensor& input, const at::Tensor& scale,
                              const at::Tensor& zero_point, int64_t group_size,
                              at::ScalarType out_dtype, at::Tensor& out) {
  entry<dequantize_per_group_out>("torchquant::dequantize_per_group", "out")
      .call(input, scale, zero_point, group_size, out_dtype, out);
}

void quantize_per_token_out(const at::Tensor& input, const at::Tensor& scale,
                            const at::Tensor& zero_point, int64_t quant_min, int64_t quant_max,
                            at::ScalarType dtype, at::Tensor& out) {
  entry<quantize_per_token_out>("torchquant::quantize_per_token", "out")
      .call(input, scale, zero_point, quant_min, quant_max, dtype, out);
}

void dequantize_per_token_out(const at::Tensor& input, const at::Tensor& scale,
                              const at::Tensor& zero_point, at::ScalarType out_dtype,
                              at::Tensor& out) {
  entry<dequantize_per_token_out>("torchquant::dequantize_per_token", "out")
      .call(input, scale, zero_point, out_dtype, out);
}

at::Tensor quantization_error(const at::Tensor& original, const at::Tensor& approximation) {
  return entry<quantization_error>("torchquant::quantization_error").call(original, approximation);
}

at::Tensor pack_bits(const at::Tensor& input, int64_t num_bits) {
  return entry<pack_bits>("torchquant::pack_bits").call(input, num_bits);
}

at::Tensor unpack_bits(const at::Tensor& packed, int64_t num_bits, int64_t last_dim,
                       at::ScalarType dtype) {
  using Signature = at::Tensor(const at::Tensor&, int64_t, c10::SymInt, at::ScalarType);
  return entry<unpack_bits, Signature>("torchquant::unpack_bits")
      .call(packed, num_bits, last_dim, dtype);
}

at::Tensor pack_weight(const at::Tensor& weight) {
  return entry<pack_weight>("torchquant::pack_weight").call(weight);
}

at::Tensor unpack_weight(const at::Tensor& packed, int64_t out_features, int64_t in_features) {
  return entry<unpack_weight>("torchquant::unpack_weight").call(packed, out_features, in_features);
}

at::Tensor int8_matmul(const at::Tensor& a, const at::Tensor& b) {
  return entry<int8_matmul>("torchquant::int8_matmul").call(a, b);
}

at::Tensor int8_matmul_packed(const at::Tensor& a, const at::Tensor& packed_weight,
                              int64_t out_features, const std::optional<at::Tensor>& weight_sum) {
  return entry<int8_matmul_packed>("torchquant::int8_matmul_packed")
      .call(a, packed_weight, out_features, weight_sum);
}

at::Tensor linear_dynamic(const at::Tensor& input, const at::Tensor& packed_weight,
                          const at::Tensor& weight_scale, const at::Tensor& weight_sum,
                          const std::optional<at::Tensor>& bias, std::string_view activation) {
  return entry<linear_dynamic>("torchquant::linear_dynamic")
      .call(input, packed_weight, weight_scale, weight_sum, bias, activation);
}

at::Tensor linear_static(const at::Tensor& input, const at::Tensor& input_scale,
                         const at::Tensor& input_zero_point, const at::Tensor& packed_weight,
                         const at::Tensor& weight_scale, const at::Tensor& weight_sum,
                         const std::optional<at::Tensor>& bias, std::string_view activation,
                         const std::optional<at::Tensor>& output_scale,
                         const std::optional<at::Tensor>& output_zero_point,
                         std::optional<at::ScalarType> output_dtype) {
  return entry<linear_static>("torchquant::linear_static")
      .call(input, input_scale, input_zero_point, packed_weight, weight_scale, weight_sum, bias,
            activation, output_scale, output_zero_point, output_dtype);
}

void histogram_observe_(at::Tensor& counts, at::Tensor& range, const at::Tensor& input) {
  entry<histogram_observe_>("torchquant::histogram_observe_").call(counts, range, input);
}

std::tuple<at::Tensor, at::Tensor> histogram_qparams(const at::Tensor& counts,
                                                     const at::Tensor& range, int64_t quant_min,
                                                     int64_t quant_max, bool symmetric,
                                                     std::string_view method, double percentile) {
  return entry<histogram_qparams>("torchquant::histogram_qparams")
      .call(counts, range, quant_min, quant_max, symmetric, method, percentile);
}

std::string active_kernels() { return entry<active_kernels>("torchquant::active_kernels").call(); }

bool detail::link() { return true; }

}  // namespace torchquant
