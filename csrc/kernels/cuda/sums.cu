#include "launch.cuh"
#include "sums.h"

namespace torchquant::kernels::cuda {
namespace {

SumGrid sum_grid(const Channels& channels) {
  return {channels.count, sum_blocks(channels), channels.outer * channels.inner};
}

template <class Terms, class Sum, class Finish>
void add_up(Queue queue, const Terms& terms, const SumGrid& grid, bool lanes_first, Sum* lanes,
            Sum* blocks, const Finish& finish) {
  run(queue, SumLanes<Terms>{terms, grid, lanes_first, lanes});
  run(queue, SumBlocks<Sum>{grid, lanes, blocks});
  run(queue, SumChannel<Sum, Finish>{grid, blocks, finish});
}

// Calls f(T()) with the type of a tensor that may be double.
template <class F>
void with_real(bool is_double, Float type, F f) {
  if (is_double) return f(double());
  with_type(type, f);
}

}  // namespace

int64_t sum_blocks(const Channels& channels) {
  return divide_up(channels.outer * channels.inner, kSumBlock);
}

void quantization_error(Queue queue, const void* original, bool original_is_double, Float from,
                        const void* approximation, bool approximation_is_double, Float to,
                        int64_t size, ErrorSums* lanes, ErrorSums* blocks, double* errors) {
  const SumGrid grid = sum_grid({1, 1, size, size, 1});
  with_real(original_is_double, from, [&](auto a) {
    with_real(approximation_is_double, to, [&](auto b) {
      using T = decltype(a);
      using U = decltype(b);
      add_up(
          queue,
          ErrorTerms<T, U>{static_cast<const T*>(original), static_cast<const U*>(approximation)},
          grid, true, lanes, blocks, FinishErrors{static_cast<double>(size), errors});
    });
  });
}

void fake_quantize_gradients(Queue queue, const Gradients& gradients, const Channels& channels,
                             const ChannelParams& params, double* lanes, double* blocks,
                             float* scale) {
  with_type(gradients.type, [&](auto value) {
    using T = decltype(value);
    const SlopeTerms<T> terms = {static_cast<const T*>(gradients.output),
                                 static_cast<const T*>(gradients.x),
                                 static_cast<T*>(gradients.input),
                                 channels,
                                 {params.scale, params.zero_point},
                                 params.quant_min,
                                 params.quant_max};
    const bool lanes_first = channels.count == 1 || channels.inner >= kSumLanes;
    add_up(queue, terms, sum_grid(channels), lanes_first, lanes, blocks, KeepGradient{scale});
  });
}

}  // namespace torchquant::kernels::cuda
