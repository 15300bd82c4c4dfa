#include <torch/library.h>

#include "cuda_tensors.h"
#include "outputs.h"

namespace torchquant::ops {
namespace {

Tensor pack_weight_cuda(const Tensor& weight) {
  check_pack_weight(weight);
  const Tensor packed = new_packed_weight(weight);
  if (packed.numel() == 0) return packed;  // however many features of nothing
  on_device_of(weight, [&](cuda::Queue queue) {
    cuda::pack_weight(queue,
                      {weight.const_data_ptr(), weight.size(0), weight.size(1), weight.stride(0),
                       weight.stride(1)},
                      packed.mutable_data_ptr<int8_t>());
  });
  return packed;
}

Tensor unpack_weight_cuda(const Tensor& packed, int64_t out_features, int64_t in_features) {
  check_unpack_weight(packed, out_features, in_features);
  const Tensor weight = new_tensor(packed, {out_features, in_features}, at::kChar);
  if (weight.numel() == 0) return weight;
  on_device_of(packed, [&](cuda::Queue queue) {
    const Tensor panels = aligned_to(kernels::kQuad, packed.contiguous());
    cuda::unpack_weight(queue, panels.const_data_ptr<int8_t>(), out_features, in_features,
                        weight.mutable_data_ptr<int8_t>());
  });
  return weight;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CUDA, m) {
  m.impl("pack_weight", &pack_weight_cuda);
  m.impl("unpack_weight", &unpack_weight_cuda);
}

}  // namespace torchquant::ops
