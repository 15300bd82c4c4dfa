// int8 products on the tensor cores. Those with a packed weight are ours where the processor has
// the instruction, and at::_int_mm on unpacked weights elsewhere; plain ones are always
// at::_int_mm.
#pragma once

#include "cuda_tensors.h"

namespace torchquant::ops {

// Operands are int8 with multiples of 16 inputs, zeros behind the last; uint8 is less kShift in
// them.
inline constexpr int32_t kShift = 128;
inline int64_t padded_16(int64_t size) { return size == 0 ? 16 : at::divup(size, 16) * 16; }

// at::_int_mm wants more than 16 rows, and outputs that are a multiple of 8.
inline int64_t padded_rows(int64_t rows) { return rows > 16 ? rows : 32; }

// How many rows activations have where they are multiplied with a packed weight.
int64_t activation_rows(cuda::Queue queue, int64_t rows);

// A matrix of int8 or uint8, at any strides, as an operand of so many rows. Itself where it is one.
at::Tensor operand(cuda::Queue queue, const at::Tensor& matrix, int64_t rows);

// The unpacked weight as an operand of padded_16(out_features) rows.
at::Tensor operand_of_packed(cuda::Queue queue, const at::Tensor& packed_weight,
                             int64_t out_features, int64_t in_features);

// The sum of each row of an operand.
at::Tensor row_sums(cuda::Queue queue, const at::Tensor& operand);

// out [..., out_features] of activations, an operand of activation_rows, and a packed weight.
void multiply_packed(cuda::Queue queue, const at::Tensor& activations,
                     const at::Tensor& packed_weight, int64_t in_features,
                     const cuda::SumsEpilogue& epilogue, const at::Tensor& out);

}  // namespace torchquant::ops
