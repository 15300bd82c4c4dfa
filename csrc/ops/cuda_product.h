// The int8 product on the tensor cores: operands as at::_int_mm takes them, and their sums.
#pragma once

#include "cuda_tensors.h"

namespace torchquant::ops {

// at::_int_mm wants more than 16 rows, and columns and a depth that are multiples of 8; what is
// brought into shape here has multiples of 16, whole chunks, with zeros in them.
inline int64_t padded_rows(int64_t rows) { return rows > 16 ? rows : 32; }
inline int64_t padded_16(int64_t size) { return size == 0 ? 16 : at::divup(size, 16) * 16; }

// A matrix of int8 or uint8 [rows, depth], at any strides, as int8 [padded_rows, padded_16]: uint8
// less 128. Itself where it is all that already.
at::Tensor left_operand(cuda::Queue queue, const at::Tensor& matrix);

// The other side [depth, columns], turned: int8 [padded_16, padded_16].
at::Tensor right_operand(cuda::Queue queue, const at::Tensor& matrix);

// The same of a packed weight.
at::Tensor right_operand(cuda::Queue queue, const at::Tensor& packed_weight, int64_t out_features,
                         int64_t in_features);

// The sums [rows of left, rows of right], int32.
at::Tensor product(const at::Tensor& left, const at::Tensor& right);

// The sum of each row of an operand.
at::Tensor row_sums(cuda::Queue queue, const at::Tensor& operand);

}  // namespace torchquant::ops
