// quantize_dynamic_per_token and _per_group, over a function of the device.
#pragma once

#include "channels.h"
#include "outputs.h"

namespace torchquant::ops {

// Codes, scales and zero points.
using Quantized = std::tuple<Tensor, Tensor, Tensor>;

// Quantizes each row in `groups` groups of group_size values, the last of which may be shorter.
using QuantizeRows = void(const Tensor& input, int64_t group_size, int64_t groups,
                          const kernels::ChosenCodes& codes, const Quantized& result);

template <QuantizeRows& quantize_rows>
Quantized quantize_dynamic_per_token(const Tensor& input, int64_t quant_min, int64_t quant_max,
                                     bool symmetric, ScalarType dtype) {
  check_quantize_dynamic(input, quant_min, quant_max, symmetric, dtype);
  check_min_dim(input, "input", 1);
  const Quantized result = new_quantized(input, dtype, new_qparams_per_token(input));
  quantize_rows(input, std::max<int64_t>(1, input.size(-1)), 1,
                chosen_codes(quant_min, quant_max, symmetric), result);
  return result;
}

template <QuantizeRows& quantize_rows>
Quantized quantize_dynamic_per_group(const Tensor& input, int64_t group_size, int64_t quant_min,
                                     int64_t quant_max, bool symmetric, ScalarType dtype) {
  check_quantize_dynamic(input, quant_min, quant_max, symmetric, dtype);
  check_group_size(input, group_size);
  const int64_t row = input.size(-1), size = std::min(group_size, std::max<int64_t>(1, row));
  const Quantized result = new_quantized(input, dtype, new_qparams_per_group(input, group_size));
  quantize_rows(input, size, at::divup(row, size), chosen_codes(quant_min, quant_max, symmetric),
                result);
  return result;
}

}  // namespace torchquant::ops
