#include <torch/library.h>

#include "choose_qparams.h"
#include "cuda_tensors.h"

namespace torchquant::ops {
namespace {

void choose(const Tensor& input, const ChannelView& view, int64_t quant_min, int64_t quant_max,
            bool symmetric, const std::tuple<Tensor, Tensor>& qparams) {
  on_device_of(input, [&](cuda::Queue queue) {
    choose_on_device(queue, dense(input), view, chosen_codes(quant_min, quant_max, symmetric),
                     std::get<0>(qparams), std::get<1>(qparams));
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CUDA, m) {
  m.impl("choose_qparams_per_tensor", &choose_qparams_per_tensor<choose>);
  m.impl("choose_qparams_per_channel", &choose_qparams_per_channel<choose>);
  m.impl("choose_qparams_per_group", &choose_qparams_per_group<choose>);
  m.impl("choose_qparams_per_token", &choose_qparams_per_token<choose>);
}

}  // namespace torchquant::ops
