#include "launch.cuh"
#include "matmul.h"

namespace torchquant::kernels::cuda {
namespace {

template <class Out>
void finish(Queue queue, const int32_t* sums, int64_t stride, int64_t rows, int64_t columns,
            const SumsEpilogue& epilogue, void* out) {
  constexpr int V = FinishSums<Out>::V;
  const bool has_vectors =
      has_aligned_rows<Out>(out, columns) && stride % V == 0 && is_aligned<int32_t, V>(sums);
  run(queue,
      FinishSums<Out>{sums, stride, rows, columns, epilogue, static_cast<Out*>(out), has_vectors});
}

}  // namespace

void pad_bytes(Queue queue, const ByteMatrix& from, bool flip, int64_t padded_rows,
               int64_t padded_columns, int8_t* to) {
  const bool has_vectors = from.column_stride == 1 && from.columns % kChunk == 0 &&
                           from.row_stride % kChunk == 0 &&
                           is_aligned<int8_t, kChunk>(static_cast<const int8_t*>(from.data));
  const Chunks chunks = {padded_rows, padded_columns, from.column_stride != 1};
  run(queue, PadBytes{from, static_cast<uint8_t>(flip ? 128 : 0), chunks, has_vectors, to});
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
    finish<decltype(value)>(queue, sums, stride, rows, columns, epilogue, out);
  });
}

}  // namespace torchquant::kernels::cuda
