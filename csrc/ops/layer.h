// What the linear operators read and write on every device.
#pragma once

#include <optional>

#include "kernel_types.h"
#include "outputs.h"

namespace torchquant::ops {

// A layer's output, which is allocated first, and its tensors, contiguous.
struct Layer {
  Tensor out;
  Tensor weight;
  Tensor scale;
  Tensor sum;
  Tensor bias;
  bool relu;
};

inline Layer new_layer(const Tensor& input, const Tensor& packed_weight, const Tensor& weight_scale,
                       const Tensor& weight_sum, const std::optional<Tensor>& bias,
                       std::string_view activation, ScalarType out_dtype) {
  return {new_rows(input, weight_scale.size(0), out_dtype),
          packed_weight.contiguous(),
          weight_scale.contiguous(),
          weight_sum.contiguous(),
          bias ? bias->contiguous() : Tensor(),
          check_activation(activation)};
}

}  // namespace torchquant::ops
