// The packed weight layout, written and read one byte at a time: the definition of the others.
#include "element.h"

namespace torchquant::kernels {
namespace {

void pack(const int8_t* weight, int64_t column_stride, int64_t k_stride, int64_t columns, int64_t k,
          uint8_t flip, int8_t* panels) {
  const int64_t quads = quads_of(k), count = (columns + kPanel - 1) / kPanel;
  if (k == 0) return;  // nothing to write, and to memset a null pointer is undefined
  memset(panels, 0, static_cast<size_t>(count * quads * kPanelRow));
  for (int64_t n = 0; n < columns; ++n) {
    int8_t* slots = panels + (n / kPanel * quads * kPanel + n % kPanel) * kQuad;
    for (int64_t i = 0; i < k; ++i) {
      const auto byte = static_cast<uint8_t>(weight[n * column_stride + i * k_stride]);
      slots[i / kQuad * kPanelRow + i % kQuad] = static_cast<int8_t>(byte + flip);
    }
  }
}

void sum(const int8_t* panel, int64_t quads, int32_t* sums) {
  int32_t totals[kPanel] = {};
  for (int64_t i = 0; i < quads * kPanelRow; ++i) totals[i / kQuad % kPanel] += panel[i];
  memcpy(sums, totals, sizeof(totals));
}

void unpack(const int8_t* panel, int64_t columns, int64_t k, int8_t* weight) {
  for (int64_t n = 0; n < columns; ++n) {
    for (int64_t i = 0; i < k; ++i) {
      weight[n * k + i] = panel[(i / kQuad * kPanel + n) * kQuad + i % kQuad];
    }
  }
}

}  // namespace

const PackKernels pack_scalar = {pack, sum, unpack};

}  // namespace torchquant::kernels
