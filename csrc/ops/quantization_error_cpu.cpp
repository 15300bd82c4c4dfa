#include <torch/library.h>

#include <cmath>

#include "channels.h"
#include "outputs.h"

namespace torchquant::ops {
namespace {

using kernels::ErrorSums;
using kernels::kSumBlock;

// sums(x, y, count) of each block, which both sources hold in rows.
template <class Sums>
std::vector<ErrorSums> block_sums(const Tensor& original, const Tensor& approximation, Sums sums) {
  const Source x(original, Source::Reads::rows), y(approximation, Source::Reads::rows);
  std::vector<ErrorSums> blocks(at::divup(x.size(), kSumBlock));
  parallel_for(0, blocks.size(), kGrain / kSumBlock, [&](int64_t from, int64_t to) {
    Piece of_x, of_y;
    for (int64_t block = from; block < to; ++block) {
      const int64_t begin = block * kSumBlock, end = std::min(x.size(), begin + kSumBlock);
      blocks[block] = sums(x.read(begin, end, of_x), y.read(begin, end, of_y), end - begin);
    }
  });
  return blocks;
}

std::vector<ErrorSums> block_sums(const Tensor& original, const Tensor& approximation) {
  const auto& error = kernels::active().error;
  const ScalarType from = original.scalar_type(), to = approximation.scalar_type();
  if (from != at::kDouble && to != at::kDouble) {
    return block_sums(original, approximation, [&](const void* x, const void* y, int64_t n) {
      return error.floats(x, kernel_float(from), y, kernel_float(to), n);
    });
  }
  // What is narrower is exact in float64.
  return block_sums(original.to(at::kDouble), approximation.to(at::kDouble),
                    [&](const void* x, const void* y, int64_t n) {
                      return error.doubles(static_cast<const double*>(x),
                                           static_cast<const double*>(y), n);
                    });
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
  const DefaultFloats floats;
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
