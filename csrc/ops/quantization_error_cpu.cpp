#include <torch/library.h>

#include <cmath>

#include "channels.h"
#include "outputs.h"

namespace torchquant::ops {
namespace {

using kernels::ErrorSums;
using kernels::kErrorBlock;

template <class T>
std::vector<ErrorSums> block_sums(const Tensor& original, const Tensor& approximation,
                                  ErrorSums (*kernel)(const T*, const T*, int64_t)) {
  const T* x = original.const_data_ptr<T>();
  const T* y = approximation.const_data_ptr<T>();
  const int64_t size = original.numel();
  std::vector<ErrorSums> sums(at::divup(size, kErrorBlock));
  at::parallel_for(0, sums.size(), kGrain / kErrorBlock, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * kErrorBlock;
      sums[block] = kernel(x + first, y + first, std::min(kErrorBlock, size - first));
    }
  });
  return sums;
}

std::vector<ErrorSums> block_sums(const Tensor& original, const Tensor& approximation) {
  const auto& error = kernels::active().error;
  const bool wide = original.scalar_type() == at::kDouble ||  //
                    approximation.scalar_type() == at::kDouble;
  // float16 and bfloat16 are exact in float32, and float32 in float64.
  const Tensor x = original.to(wide ? at::kDouble : at::kFloat).contiguous();
  const Tensor y = approximation.to(wide ? at::kDouble : at::kFloat).contiguous();
  return wide ? block_sums<double>(x, y, error.f64) : block_sums<float>(x, y, error.f32);
}

// Blocks are added in index order: the same bits for any number of threads.
ErrorSums add_blocks(const std::vector<ErrorSums>& blocks) {
  ErrorSums total = {};
  for (const ErrorSums& block : blocks) {
    total.max_error = std::max(total.max_error, block.max_error);
    total.absolute += block.absolute;
    total.squared += block.squared;
    total.signal += block.signal;
  }
  if (std::isnan(total.absolute)) total.max_error = NAN;  // std::max loses it
  return total;
}

double snr_db(const ErrorSums& total) {
  if (total.max_error == 0) return INFINITY;
  return 10 * std::log10(total.signal / total.squared);
}

Tensor quantization_error_cpu(const Tensor& original, const Tensor& approximation) {
  check_quantization_error(original, approximation);
  const ErrorSums total = add_blocks(block_sums(original, approximation));
  const auto count = static_cast<double>(original.numel());
  const Tensor errors = new_errors(original);
  auto* out = errors.mutable_data_ptr<double>();
  out[0] = total.max_error;
  out[1] = total.absolute / count;
  out[2] = total.squared / count;
  out[3] = snr_db(total);
  return errors;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CPU, m) { m.impl("quantization_error", &quantization_error_cpu); }

}  // namespace torchquant::ops
