// Transposition, one element at a time: the definition of the others.
#include "element.h"

namespace torchquant::kernels {
namespace {

template <class T>
void transpose(const void* from, int64_t from_stride, void* to, int64_t to_stride, int64_t rows,
               int64_t columns) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      store(to, r * to_stride + c, load<T>(from, c * from_stride + r));
    }
  }
}

void transpose_tile(const void* from, int64_t from_stride, void* to, int64_t to_stride,
                    int64_t rows, int64_t columns, int64_t size) {
  const auto transpose_elements = size == 4   ? transpose<uint32_t>
                                  : size == 2 ? transpose<uint16_t>
                                              : transpose<uint8_t>;
  transpose_elements(from, from_stride, to, to_stride, rows, columns);
}

}  // namespace

const TransposeKernels transpose_scalar = {transpose_tile};

}  // namespace torchquant::kernels
