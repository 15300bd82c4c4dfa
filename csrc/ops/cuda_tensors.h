// From tensors to what the CUDA kernels take.
#pragma once

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "../kernels/cuda/cuda_kernels.h"
#include "channels.h"

namespace torchquant::ops {

namespace cuda = kernels::cuda;

inline int attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&value, name, device));
  return value;
}

// The current stream of a device.
inline cuda::Queue queue_of(c10::DeviceIndex device) {
  return {c10::cuda::getCurrentCUDAStream(device).stream(),
          attribute(cudaDevAttrMultiProcessorCount, device),
          10 * attribute(cudaDevAttrComputeCapabilityMajor, device) +
              attribute(cudaDevAttrComputeCapabilityMinor, device)};
}

// Calls launch(queue) with the current stream of the tensor's device, which is current meanwhile.
template <class Launch>
void on_device_of(const at::Tensor& tensor, Launch launch) {
  const c10::cuda::CUDAGuard guard(tensor.device());
  launch(queue_of(tensor.device().index()));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

// The tensor itself where its address is a multiple of `bytes`: what a caller wraps lies anywhere.
inline at::Tensor aligned_to(size_t bytes, const at::Tensor& tensor) {
  const auto address = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  return address % bytes == 0 ? tensor : tensor.clone();
}

inline at::Tensor aligned(const at::Tensor& tensor) {
  return aligned_to(tensor.element_size(), tensor);
}

// The same of a tensor that is written to, of which a copy would not do.
inline void check_aligned(const at::Tensor& tensor, const char* name) {
  const auto address = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  TORCH_CHECK(address % tensor.element_size() == 0, name, " must lie at a multiple of ",
              tensor.element_size(), " bytes, its element size, on a CUDA device, but got one ",
              address % tensor.element_size(),
              " bytes beyond: pass one whose memory is its own, as torch.empty_like makes it");
}

// Dense and aligned.
inline at::Tensor dense(const at::Tensor& tensor) { return aligned(tensor.contiguous()); }

// Elements of a tensor read where they lie, if they are rows at one distance, or else of a copy.
class DeviceElements {
 public:
  explicit DeviceElements(const at::Tensor& tensor) : tensor_(aligned(tensor)) {
    const Layout layout(tensor_);
    if (layout.has_rows() && layout.dims() == 2) {
      row_ = layout.row();
      stride_ = layout.strides[0];
    } else {
      tensor_ = tensor_.contiguous();
      row_ = stride_ = tensor_.numel();
    }
  }

  cuda::Elements elements() const { return {tensor_.const_data_ptr(), row_, stride_}; }

 private:
  at::Tensor tensor_;
  int64_t row_;
  int64_t stride_;
};

// The scale and the zero point of each channel.
class DeviceParams {
 public:
  DeviceParams(const at::Tensor& scale, const at::Tensor& zero_point)
      : scale_(dense(scale)), zero_point_(dense(zero_point)) {}

  kernels::ChannelParams params(int64_t quant_min, int64_t quant_max) const {
    return {scale_.const_data_ptr<float>(), zero_point_.const_data_ptr<int32_t>(),
            static_cast<int32_t>(quant_min), static_cast<int32_t>(quant_max)};
  }

 private:
  at::Tensor scale_;
  at::Tensor zero_point_;
};

// Of no elements, the channels are empty runs.
inline cuda::Channels channels_of(const ChannelView& view) {
  if (view.size() == 0) return {1, view.channels, 0, 0, 1};
  return {view.outer, view.channels, view.inner, view.row, view.runs_of_row()};
}

// Memory that a call needs for itself, `bytes` of it: PyTorch gives it to others once the stream
// has come so far.
inline at::Tensor device_scratch(const at::Tensor& like, int64_t bytes) {
  return at::empty({bytes}, like.options().dtype(at::kByte));
}

// The parameters of each channel of x, which is dense.
inline void choose_on_device(cuda::Queue queue, const at::Tensor& x, const ChannelView& view,
                             const kernels::ChosenCodes& codes, const at::Tensor& scale,
                             const at::Tensor& zero_point) {
  const cuda::Channels channels = channels_of(view);
  const int64_t splits = cuda::range_splits(queue, channels);
  const at::Tensor parts = device_scratch(x, splits * channels.count * int64_t{sizeof(Range)});
  cuda::choose_qparams(queue, x.const_data_ptr(), kernel_float(x.scalar_type()), channels, splits,
                       static_cast<Range*>(parts.mutable_data_ptr()), codes,
                       scale.mutable_data_ptr<float>(), zero_point.mutable_data_ptr<int32_t>());
}

}  // namespace torchquant::ops
