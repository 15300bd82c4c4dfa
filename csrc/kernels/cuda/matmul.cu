#include "launch.cuh"
#include "matmul.h"

namespace torchquant::kernels::cuda {

void pad_bytes(Queue queue, const ByteMatrix& from, bool flip, int64_t padded_rows,
               int64_t padded_columns, int8_t* to) {
  run(queue, padding(from, flip, padded_rows, padded_columns, to));
}

void pack_weight(Queue queue, const ByteMatrix& weight, int8_t* packed) {
  run(queue, PackQuads{weight, packed});
}

void unpack_weight(Queue queue, const int8_t* packed, int64_t rows, int64_t columns,
                   int8_t* weight) {
  run(queue, UnpackQuads{packed, rows, columns, weight});
}

void unpack_padded(Queue queue, const int8_t* packed, int64_t rows, int64_t columns,
                   int64_t padded_rows, int64_t padded_columns, int8_t* weight) {
  run(queue, UnpackWeight{packed, rows, columns, {padded_rows, padded_columns, true}, weight});
}

void sum_rows(Queue queue, const int8_t* matrix, int64_t rows, int64_t columns, int32_t* sums) {
  run(queue, RowSums{matrix, rows, columns}, KeepSum{sums}, columns);
}

void finish_sums(Queue queue, const int32_t* sums, int64_t stride, int64_t rows, int64_t columns,
                 const SumsEpilogue& epilogue, Output type, void* out) {
  with_type(type, [&](auto value) {
    using Out = decltype(value);
    run(queue, finishing(sums, stride, rows, columns, epilogue, static_cast<Out*>(out)));
  });
}

}  // namespace torchquant::kernels::cuda
