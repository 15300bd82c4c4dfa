#include <torch/library.h>

#include "outputs.h"
#include "panels.h"

namespace torchquant::ops {
namespace {

Tensor pack_weight_cpu(const Tensor& weight) {
  check_pack_weight(weight);
  const Tensor packed = new_packed_weight(weight);
  const WeightSource source = {weight.const_data_ptr(), weight.stride(0), weight.stride(1),
                               weight.size(0),          weight.size(1),   0};
  std::vector<int32_t> sums(weight.size(0));
  pack_panels(source, packed.mutable_data_ptr<int8_t>(), sums.data());
  return packed;
}

Tensor unpack_weight_cpu(const Tensor& packed, int64_t out_features, int64_t in_features) {
  check_unpack_weight(packed, out_features, in_features);
  const Tensor panels = packed.contiguous();
  const Tensor weight = new_tensor(packed, {out_features, in_features}, at::kChar);
  const int64_t count = panels.size(0);
  const int64_t panel_size = kernels::kPanel * std::max<int64_t>(1, in_features);
  at::parallel_for(0, count, at::divup(kGrain, panel_size), [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      const int64_t first = panel * kernels::kPanel;
      kernels::active().pack.unpack(panels.const_data_ptr<int8_t>() + panel * panels.stride(0),
                                    std::min(kernels::kPanel, out_features - first), in_features,
                                    weight.mutable_data_ptr<int8_t>() + first * in_features);
    }
  });
  return weight;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CPU, m) {
  m.impl("pack_weight", &pack_weight_cpu);
  m.impl("unpack_weight", &unpack_weight_cpu);
}

}  // namespace torchquant::ops
