// The order in which memory holds the dimensions of a dense tensor: channels_last weights and
// transposed matrices are contiguous in it.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <numeric>

namespace torchquant::ops {

class MemoryOrder {
 public:
  // That of a dense tensor; as it is for one that is not.
  explicit MemoryOrder(const at::Tensor& tensor) {
    if (!tensor.is_contiguous() && tensor.is_non_overlapping_and_dense()) sort(tensor);
  }

  // That of two dense tensors which lie alike; as they are for others.
  MemoryOrder(const at::Tensor& tensor, const at::Tensor& other) {
    if (tensor.is_contiguous() || !tensor.is_non_overlapping_and_dense()) return;
    if (tensor.sizes() == other.sizes() && tensor.strides() == other.strides()) sort(tensor);
  }

  at::Tensor of(const at::Tensor& tensor) const {
    return dims_.empty() ? tensor : tensor.permute(dims_);
  }

  int64_t of_axis(int64_t axis) const {
    if (dims_.empty()) return axis;
    return std::find(dims_.begin(), dims_.end(), axis) - dims_.begin();
  }

 private:
  void sort(const at::Tensor& tensor) {
    dims_.resize(tensor.dim());
    std::iota(dims_.begin(), dims_.end(), 0);
    std::stable_sort(dims_.begin(), dims_.end(),
                     [&](int64_t a, int64_t b) { return tensor.stride(a) > tensor.stride(b); });
  }

  c10::DimVector dims_;  // none where nothing changes place
};

}  // namespace torchquant::ops
