// The results of every operator, fresh and contiguous: shape and dtype in one place for CPU, CUDA
// and Meta, so that the three cannot drift apart.
#pragma once

#include <ATen/ops/empty.h>

#include <tuple>

#include "check.h"

namespace torchquant::ops {

inline Tensor new_tensor(const Tensor& like, c10::SymIntArrayRef shape, ScalarType dtype) {
  return at::empty_symint(shape, like.options().dtype(dtype));
}

inline Tensor new_like(const Tensor& input, ScalarType dtype) {
  return new_tensor(input, input.sym_sizes(), dtype);
}

inline std::tuple<Tensor, Tensor> new_qparams(const Tensor& input, c10::SymIntArrayRef shape) {
  return {new_tensor(input, shape, at::kFloat), new_tensor(input, shape, at::kInt)};
}

inline std::tuple<Tensor, Tensor> new_qparams_per_tensor(const Tensor& input) {
  return new_qparams(input, {});
}

inline std::tuple<Tensor, Tensor> new_qparams_per_channel(const Tensor& input, int64_t axis) {
  return new_qparams(input, {input.sym_size(axis)});
}

inline std::tuple<Tensor, Tensor> new_qparams_per_group(const Tensor& input, int64_t group_size) {
  return new_qparams(input, group_shape(input, group_size));
}

inline std::tuple<Tensor, Tensor> new_qparams_per_token(const Tensor& input) {
  return new_qparams(input, token_shape(input));
}

inline std::tuple<Tensor, Tensor, Tensor> new_quantized(const Tensor& input, ScalarType dtype,
                                                        const std::tuple<Tensor, Tensor>& qparams) {
  return std::tuple_cat(std::tuple{new_like(input, dtype)}, qparams);
}

// Of fake_quantize's input and scale; the latter is empty where nobody asks for it.
inline std::tuple<Tensor, Tensor> new_gradients(const Tensor& input, const Tensor& scale,
                                                bool scale_requires_grad) {
  const SymShape none = {0};
  return {new_like(input, input.scalar_type()),
          scale_requires_grad ? new_like(scale, at::kFloat) : new_tensor(scale, none, at::kFloat)};
}

// `out` is as the result would be: of this shape and dtype, at any strides.
inline void check_out(const Tensor& out, const Tensor& input, ScalarType dtype) {
  const char* mend = "pass torch.empty_like(input, dtype=...), nothing is resized or converted";
  check_same_device(out, "out", input, "input");
  TORCH_CHECK(out.scalar_type() == dtype, "out must be ", dtype_name(dtype), ", but got ",
              dtype_name(out.scalar_type()), ": ", mend);
  check_shape(out, "out", input.sym_sizes(), "that of input", mend);
}

inline Tensor new_errors(const Tensor& original) { return new_tensor(original, {4}, at::kDouble); }

// `input` with another last dimension.
inline Tensor new_rows(const Tensor& input, const c10::SymInt& last_dim, ScalarType dtype) {
  SymShape shape = input.sym_sizes().vec();
  shape.back() = last_dim;
  return new_tensor(input, shape, dtype);
}

inline Tensor new_packed_bits(const Tensor& input, int64_t num_bits) {
  return new_rows(input, packed_bytes(input.sym_size(-1), num_bits), at::kByte);
}

inline Tensor new_packed_weight(const Tensor& weight) {
  return new_tensor(weight, packed_shape(weight.sym_size(0), weight.sym_size(1)), at::kChar);
}

inline Tensor new_product(const Tensor& a, const Tensor& b) {
  return new_rows(a, b.sym_size(-1), at::kInt);
}

}  // namespace torchquant::ops
