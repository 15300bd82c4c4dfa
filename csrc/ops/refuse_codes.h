// The one refusal that needs values: what pack_bits says of codes that do not fit.
#pragma once

#include <ATen/ops/max.h>
#include <ATen/ops/min.h>

#include "check.h"

namespace torchquant::ops {

[[noreturn]] inline void refuse_codes(const Tensor& codes, int64_t num_bits) {
  const bool is_signed = codes.scalar_type() == at::kChar;
  const int64_t low = is_signed ? -(int64_t{1} << (num_bits - 1)) : 0;
  const int64_t high = low + (int64_t{1} << num_bits) - 1;
  TORCH_CHECK(false, "input must lie in [", low, ", ", high, "] to fit ", num_bits,
              " bits, but got values from ", codes.min().item<int64_t>(), " to ",
              codes.max().item<int64_t>(), ": quantize it to this range, or pass more num_bits");
}

}  // namespace torchquant::ops
