#include <torch/library.h>

#include "outputs.h"
#include "panels.h"

namespace torchquant::ops {
namespace {

Tensor pack_weight_cpu(const Tensor& weight) {
  check_pack_weight(weight);
  const Tensor packed = new_packed_weight(weight);
  if (packed.numel() == 0) return packed;  // however many features of nothing
  const int64_t out_features = weight.size(0), in_features = weight.size(1);
  const WeightSource source = {
      weight.const_data_ptr(), weight.stride(0), weight.stride(1), out_features, in_features, 0};
  auto* panels = packed.mutable_data_ptr<int8_t>();
  for_panels(out_features, in_features, [&](int64_t begin, int64_t end) {
    pack_panels(source, begin, end, panels + begin * panel_size(in_features));
  });
  return packed;
}

Tensor unpack_weight_cpu(const Tensor& packed, int64_t out_features, int64_t in_features) {
  check_unpack_weight(packed, out_features, in_features);
  const Tensor weight = new_tensor(packed, {out_features, in_features}, at::kChar);
  if (weight.numel() == 0) return weight;
  const Tensor contiguous = packed.contiguous();
  const auto* panels = contiguous.const_data_ptr<int8_t>();
  auto* rows = weight.mutable_data_ptr<int8_t>();
  for_panels(out_features, in_features, [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      const int64_t first = panel * kernels::kPanel;
      kernels::active().pack.unpack(panels + panel * panel_size(in_features),
                                    std::min(kernels::kPanel, out_features - first), in_features,
                                    rows + first * in_features);
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
