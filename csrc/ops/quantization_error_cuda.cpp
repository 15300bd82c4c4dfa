#include <torch/library.h>

#include "cuda_tensors.h"
#include "outputs.h"

namespace torchquant::ops {
namespace {

using kernels::ErrorSums;

Tensor quantization_error_cuda(const Tensor& original, const Tensor& approximation) {
  check_quantization_error(original, approximation);
  const Tensor errors = new_errors(original);
  on_device_of(original, [&](cuda::Queue queue) {
    const Tensor x = dense(original), y = dense(approximation);
    const ScalarType from = x.scalar_type(), to = y.scalar_type();
    const int64_t blocks = cuda::sum_blocks(channels_of(per_tensor_view(x)));
    const Tensor lane_sums = device_scratch(x, blocks * kernels::kSumLanes * sizeof(ErrorSums));
    const Tensor block_sums = device_scratch(x, blocks * sizeof(ErrorSums));
    cuda::quantization_error(queue, x.const_data_ptr(), from == at::kDouble, kernel_float(from),
                             y.const_data_ptr(), to == at::kDouble, kernel_float(to), x.numel(),
                             static_cast<ErrorSums*>(lane_sums.mutable_data_ptr()),
                             static_cast<ErrorSums*>(block_sums.mutable_data_ptr()),
                             errors.mutable_data_ptr<double>());
  });
  return errors;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CUDA, m) { m.impl("quantization_error", &quantization_error_cuda); }

}  // namespace torchquant::ops
