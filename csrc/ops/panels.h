// Packing a weight into panels, for pack_weight and for the plain matmul.
#pragma once

#include <algorithm>

#include "kernel_types.h"
#include "parallel.h"

namespace torchquant::ops {

// Makes a uint8 weight int8: w = (w - 128) + 128.
inline constexpr uint8_t kFlip = 128;

// out_features x in_features bytes at any strides; flip, 0 or kFlip, is added to each.
struct WeightSource {
  const void* data;
  int64_t out_stride;
  int64_t in_stride;
  int64_t out_features;
  int64_t in_features;
  uint8_t flip;
};

// The bytes of one panel.
inline int64_t panel_size(int64_t in_features) {
  return kernels::quads_of(in_features) * kernels::kPanelRow;
}

inline int64_t panel_count(int64_t out_features) {
  return at::divup(out_features, kernels::kPanel);
}

// Packs panels [begin, end), on the calling thread.
inline void pack_panels(const WeightSource& source, int64_t begin, int64_t end, int8_t* packed) {
  const int64_t last = std::min(end * kernels::kPanel, source.out_features);
  if (source.in_features == 0) return;  // there may be no memory at all
  for (int64_t n = begin * kernels::kPanel; n < last; n += kernels::kPackColumns) {
    kernels::active().pack.pack(static_cast<const int8_t*>(source.data) + n * source.out_stride,
                                source.out_stride, source.in_stride,
                                std::min(kernels::kPackColumns, last - n), source.in_features,
                                source.flip, packed);
    packed += kernels::kPackColumns / kernels::kPanel * panel_size(source.in_features);
  }
}

// The sums of the columns of panels [begin, end), kPanel for each.
inline void sum_panels(const int8_t* packed, int64_t in_features, int64_t begin, int64_t end,
                       int32_t* sums) {
  const int64_t size = panel_size(in_features);
  for (int64_t panel = begin; panel < end; ++panel, packed += size, sums += kernels::kPanel) {
    kernels::active().pack.sum(packed, kernels::quads_of(in_features), sums);
  }
}

// Calls work(begin, end) for panels, shared out among threads where it is worth it.
template <class Work>
void for_panels(int64_t out_features, int64_t in_features, Work work) {
  const int64_t grain = at::divup(kGrain, std::max<int64_t>(1, panel_size(in_features)));
  parallel_for(0, panel_count(out_features), grain, work);
}

}  // namespace torchquant::ops
