#include "launch.cuh"
#include "matmul.h"

namespace torchquant::kernels::cuda {
<<<<<<< HEAD
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
=======
>>>>>>> cudahost

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
<<<<<<< HEAD
  with_type(type, [&](auto value) {
    finish<decltype(value)>(queue, sums, stride, rows, columns, epilogue, out);
  });
=======
  const auto run_as = [&](auto value) {
    using Out = decltype(value);
    run(queue, finishing(sums, stride, rows, columns, epilogue, static_cast<Out*>(out)));
  };
  switch (type) {
    case Output::i32:
      return run_as(int32_t());
    case Output::f32:
      return run_as(float());
    case Output::f16:
      return run_as(Half());
    case Output::bf16:
      return run_as(BFloat16());
    case Output::i8:
      return run_as(int8_t());
    case Output::u8:
      return run_as(uint8_t());
  }
>>>>>>> cudahost
}

}  // namespace torchquant::kernels::cuda
