#include <torch/library.h>

#include "cuda_tensors.h"
#include "histogram_state.h"

namespace torchquant::ops {
namespace {

void observe(const Tensor& x, const Tensor& counts, const Tensor& range) {
  on_device_of(x, [&](cuda::Queue queue) {
    const int64_t blocks = cuda::histogram_blocks(queue, x.numel());
    const Tensor seen = device_scratch(x, blocks * int64_t{sizeof(cuda::SeenRange)});
    cuda::histogram_observe(queue, x.const_data_ptr(), kernel_float(x.scalar_type()), x.numel(),
                            counts.mutable_data_ptr<int64_t>(),
                            static_cast<cuda::SeenRange*>(seen.mutable_data_ptr()),
                            range.mutable_data_ptr<float>());
  });
}

void histogram_observe_cuda(Tensor& counts, Tensor& range, const Tensor& input) {
  check_histogram_observe(counts, range, input);
  check_aligned(counts, "counts");
  check_aligned(range, "range");
  const Tensor x = dense(MemoryOrder(input).of(input));
  update_histogram(counts, range, input,
                   [&](const Tensor& dense_counts, const Tensor& dense_range) {
                     observe(x, dense_counts, dense_range);
                   });
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CUDA, m) { m.impl("histogram_observe_", &histogram_observe_cuda); }

}  // namespace torchquant::ops
