#include "cuda_product.h"

#include <ATen/ops/_int_mm.h>
#include <ATen/ops/empty.h>

namespace torchquant::ops {
namespace {

// Whether an operand may be read as it lies.
bool is_operand(const at::Tensor& matrix, int64_t rows, int64_t columns) {
  const auto address = reinterpret_cast<uintptr_t>(matrix.const_data_ptr());
  return matrix.scalar_type() == at::kChar && matrix.is_contiguous() && matrix.size(0) == rows &&
         matrix.size(1) == columns && address % 16 == 0;
}

at::Tensor operand(cuda::Queue queue, const at::Tensor& matrix, int64_t rows, int64_t columns) {
  if (is_operand(matrix, rows, columns)) return matrix;
  const at::Tensor padded = at::empty({rows, columns}, matrix.options().dtype(at::kChar));
  cuda::pad_bytes(
      queue,
      {matrix.const_data_ptr(), matrix.size(0), matrix.size(1), matrix.stride(0), matrix.stride(1)},
      matrix.scalar_type() == at::kByte, rows, columns, padded.mutable_data_ptr<int8_t>());
  return padded;
}

}  // namespace

at::Tensor left_operand(cuda::Queue queue, const at::Tensor& matrix) {
  return operand(queue, matrix, padded_rows(matrix.size(0)), padded_16(matrix.size(1)));
}

at::Tensor right_operand(cuda::Queue queue, const at::Tensor& matrix) {
  return operand(queue, matrix.t(), padded_16(matrix.size(1)), padded_16(matrix.size(0)));
}

at::Tensor right_operand(cuda::Queue queue, const at::Tensor& packed_weight, int64_t out_features,
                         int64_t in_features) {
  const at::Tensor packed = aligned_to(4, packed_weight.contiguous());
  const int64_t rows = padded_16(out_features), columns = padded_16(in_features);
  const at::Tensor weight = at::empty({rows, columns}, packed.options());
  cuda::unpack_padded(queue, packed.const_data_ptr<int8_t>(), out_features, in_features, rows,
                      columns, weight.mutable_data_ptr<int8_t>());
  return weight;
}

at::Tensor product(const at::Tensor& left, const at::Tensor& right) {
  return at::_int_mm(left, right.t());
}

at::Tensor row_sums(cuda::Queue queue, const at::Tensor& operand) {
  const at::Tensor sums = at::empty({operand.size(0)}, operand.options().dtype(at::kInt));
  cuda::sum_rows(queue, operand.const_data_ptr<int8_t>(), operand.size(0), operand.size(1),
                 sums.mutable_data_ptr<int32_t>());
  return sums;
}

}  // namespace torchquant::ops
