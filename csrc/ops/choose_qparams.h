// choose_qparams_* of every granularity, over a function of the device.
#pragma once

#include "channels.h"
#include "memory_order.h"
#include "outputs.h"

namespace torchquant::ops {

// Writes the scale and the zero point of each channel.
using ChooseQParams = void(const Tensor& input, const ChannelView& view, int64_t quant_min,
                           int64_t quant_max, bool symmetric,
                           const std::tuple<Tensor, Tensor>& qparams);

template <ChooseQParams& choose>
std::tuple<Tensor, Tensor> choose_qparams_per_tensor(const Tensor& input, int64_t quant_min,
                                                     int64_t quant_max, bool symmetric) {
  check_choose_qparams(input, quant_min, quant_max, symmetric);
  auto qparams = new_qparams_per_tensor(input);
  const Tensor x = MemoryOrder(input).of(input);
  choose(x, per_tensor_view(x), quant_min, quant_max, symmetric, qparams);
  return qparams;
}

template <ChooseQParams& choose>
std::tuple<Tensor, Tensor> choose_qparams_per_channel(const Tensor& input, int64_t axis,
                                                      int64_t quant_min, int64_t quant_max,
                                                      bool symmetric) {
  check_choose_qparams(input, quant_min, quant_max, symmetric);
  axis = check_axis(input, axis);
  auto qparams = new_qparams_per_channel(input, axis);
  const MemoryOrder order(input);
  const Tensor x = order.of(input);
  choose(x, per_channel_view(x, order.of_axis(axis)), quant_min, quant_max, symmetric, qparams);
  return qparams;
}

template <ChooseQParams& choose>
std::tuple<Tensor, Tensor> choose_qparams_per_group(const Tensor& input, int64_t group_size,
                                                    int64_t quant_min, int64_t quant_max,
                                                    bool symmetric) {
  check_choose_qparams(input, quant_min, quant_max, symmetric);
  check_group_size(input, group_size);
  auto qparams = new_qparams_per_group(input, group_size);
  choose(input, per_group_view(input, group_size), quant_min, quant_max, symmetric, qparams);
  return qparams;
}

template <ChooseQParams& choose>
std::tuple<Tensor, Tensor> choose_qparams_per_token(const Tensor& input, int64_t quant_min,
                                                    int64_t quant_max, bool symmetric) {
  check_choose_qparams(input, quant_min, quant_max, symmetric);
  check_min_dim(input, "input", 1);
  auto qparams = new_qparams_per_token(input);
  choose(input, per_token_view(input), quant_min, quant_max, symmetric, qparams);
  return qparams;
}

}  // namespace torchquant::ops
