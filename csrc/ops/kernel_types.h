// From tensors to what kernels take.
#pragma once

#include <ATen/core/Tensor.h>

#include "../kernels/kernels.h"

namespace torchquant::ops {

inline kernels::Float kernel_float(at::ScalarType dtype) {
  if (dtype == at::kHalf) return kernels::Float::f16;
  if (dtype == at::kBFloat16) return kernels::Float::bf16;
  return kernels::Float::f32;
}

inline kernels::Int kernel_int(at::ScalarType dtype) {
  if (dtype == at::kByte) return kernels::Int::u8;
  if (dtype == at::kShort) return kernels::Int::i16;
  if (dtype == at::kInt) return kernels::Int::i32;
  return kernels::Int::i8;
}

inline kernels::Output kernel_output(at::ScalarType dtype) {
  if (dtype == at::kHalf) return kernels::Output::f16;
  if (dtype == at::kBFloat16) return kernels::Output::bf16;
  if (dtype == at::kChar) return kernels::Output::i8;
  if (dtype == at::kByte) return kernels::Output::u8;
  if (dtype == at::kInt) return kernels::Output::i32;
  return kernels::Output::f32;
}

inline kernels::ChosenCodes chosen_codes(int64_t quant_min, int64_t quant_max, bool symmetric) {
  return {static_cast<int32_t>(quant_min), static_cast<int32_t>(quant_max), symmetric};
}

// The address of element `index` of a contiguous tensor.
inline const void* element(const at::Tensor& tensor, int64_t index) {
  return static_cast<const char*>(tensor.const_data_ptr()) + index * tensor.element_size();
}

inline void* mutable_element(const at::Tensor& tensor, int64_t index) {
  return static_cast<char*>(tensor.mutable_data_ptr()) + index * tensor.element_size();
}

// Elements of one span of work: less is not worth a thread.
inline constexpr int64_t kGrain = 32768;

}  // namespace torchquant::ops
