// Packing a weight into panels, for pack_weight and for the plain matmul.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>

#include "kernel_types.h"

namespace torchquant::ops {

// out_features x in_features bytes at any strides; flip is added to each (see PackKernels).
struct WeightSource {
  const void* data;
  int64_t out_stride;
  int64_t in_stride;
  int64_t out_features;
  int64_t in_features;
  uint8_t flip;
};

inline int64_t packed_size(int64_t out_features, int64_t in_features) {
  return at::divup(out_features, kernels::kPanel) * kernels::kPanel *
         at::divup(in_features, kernels::kQuad) * kernels::kQuad;
}

// Fills `packed` and, for each output feature, the sum of its bytes.
inline void pack_panels(const WeightSource& source, int8_t* packed, int32_t* sums) {
  const int64_t panels = at::divup(source.out_features, kernels::kPanel);
  const int64_t panel_size = packed_size(kernels::kPanel, source.in_features);
  const int64_t grain = at::divup(kGrain, std::max<int64_t>(1, panel_size));
  at::parallel_for(0, panels, grain, [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      const int64_t first = panel * kernels::kPanel;
      kernels::active().pack.pack(
          static_cast<const int8_t*>(source.data) + first * source.out_stride, source.out_stride,
          source.in_stride, std::min(kernels::kPanel, source.out_features - first),
          source.in_features, source.flip, packed + panel * panel_size, sums + first);
    }
  });
}

}  // namespace torchquant::ops
