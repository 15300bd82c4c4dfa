// The calibration state as histogram_observe_ changes it in place.
#pragma once

#include "check.h"
#include "memory_order.h"
#include "write_out.h"

namespace torchquant::ops {

// Calls write(counts, range) with the two themselves, or where they cannot be written to as they
// lie, with dense tensors that are then copied into them.
template <class Write>
void update_histogram(const Tensor& counts, const Tensor& range, const Tensor& input, Write write) {
  TORCH_CHECK(!Extent(range).meets(Extent(counts)),
              "range must not share memory with counts, but got one that lies within it: pass one "
              "with memory of its own, as torch.empty_like makes it");
  update({counts, "counts"}, {{input, "input"}}, [&](const Tensor& dense_counts) {
    update({range, "range"}, {{input, "input"}},
           [&](const Tensor& dense_range) { write(dense_counts, dense_range); });
  });
}

}  // namespace torchquant::ops
