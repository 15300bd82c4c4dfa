// The packed weight layout, written and read.
#include "element.h"

namespace torchquant::kernels {
namespace {

void pack(const int8_t* weight, int64_t column_stride, int64_t k_stride, int64_t columns, int64_t k,
          uint8_t flip, int8_t* panel, int32_t* sums) {
  const int64_t padded = (k + kQuad - 1) / kQuad * kQuad;
  int32_t totals[kPanel] = {};
  memset(panel, 0, static_cast<size_t>(padded * kPanel));
  for (int64_t i = 0; i < k; ++i) {
    const int8_t* row = weight + i * k_stride;
    int8_t* slots = panel + i / kQuad * kPanel * kQuad + i % kQuad;
    for (int64_t n = 0; n < columns; ++n) {
      const auto value = static_cast<int8_t>(static_cast<uint8_t>(row[n * column_stride]) + flip);
      slots[n * kQuad] = value;
      totals[n] += value;
    }
  }
  for (int64_t n = 0; n < columns; ++n) sums[n] = totals[n];
}

void unpack(const int8_t* panel, int64_t columns, int64_t k, int8_t* weight) {
  for (int64_t n = 0; n < columns; ++n) {
    for (int64_t i = 0; i < k; ++i) {
      weight[n * k + i] = panel[(i / kQuad * kPanel + n) * kQuad + i % kQuad];
    }
  }
}

}  // namespace

const PackKernels pack_scalar = {pack, unpack};

}  // namespace torchquant::kernels
