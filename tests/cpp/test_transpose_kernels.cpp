// Transposition: every set against a plain loop over bytes.
#include "kernel_sets.h"

namespace torchquant::kernels {
namespace {

using EverySetTranspose = EverySet;
INSTANTIATE_TEST_SUITE_P(Sets, EverySetTranspose, testing::ValuesIn(all_sets()), name_of);

// The elements from the first to the last of `rows` rows that lie `stride` apart.
int64_t extent(int64_t rows, int64_t columns, int64_t stride) {
  return rows == 0 || columns == 0 ? 0 : (rows - 1) * stride + columns;
}

// Rows of both matrices lie apart, and what lies between them stays as it is.
void expect_transposed(const Kernels& set, int64_t rows, int64_t columns, int64_t size) {
  const int64_t from_stride = rows + 3, to_stride = columns + 2;
  const Fenced from(random_bytes(extent(columns, rows, from_stride) * size, rows),
                    size > 1 ? 1 : 0);
  Guarded to(extent(rows, columns, to_stride) * size);
  auto wanted = to.content();
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      std::memcpy(wanted.data() + (r * to_stride + c) * size,
                  from.as<uint8_t>() + (c * from_stride + r) * size, size);
    }
  }
  set.transpose.tile(from.data(), from_stride, to.data(), to_stride, rows, columns, size);
  ASSERT_TRUE(to.intact());
  ASSERT_TRUE(to.content() == wanted) << rows << " x " << columns << " of " << size << " bytes";
}

TEST_P(EverySetTranspose, TransposesEverySmallTile) {
  for (const int64_t size : {1, 2, 4}) {
    for (int64_t rows = 0; rows <= 20; ++rows) {
      for (int64_t columns = 0; columns <= 20; ++columns) {
        expect_transposed(set(), rows, columns, size);
      }
    }
  }
}

TEST_P(EverySetTranspose, TransposesLargeTiles) {
  for (const int64_t size : {1, 2, 4}) {
    for (const int64_t rows : {63, 64, 65}) {
      for (const int64_t columns : {255, 256, 257}) {
        expect_transposed(set(), rows, columns, size);
        expect_transposed(set(), columns, rows, size);
      }
    }
  }
}

}  // namespace
}  // namespace torchquant::kernels
