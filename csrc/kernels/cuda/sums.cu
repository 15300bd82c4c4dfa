#include "launch.cuh"
#include "sums.h"

namespace torchquant::kernels::cuda {
namespace {

SumGrid sum_grid(const Channels& channels) {
  return {channels.count, sum_blocks(channels), channels.outer * channels.inner};
}

// A block of threads for each channel brings its sums in, and one thread adds them up.
template <class Sum, class Finish>
__global__ void __launch_bounds__(kThreads) sum_channel(SumChannel<Sum, Finish> all) {
  __shared__ Sum staged[kThreads];
  const int64_t channel = blockIdx.x, blocks = all.grid.blocks;
  Sum sum = {};
  for (int64_t first = 0; first < blocks; first += kThreads) {
    const int64_t block = first + threadIdx.x;
    if (block < blocks) staged[threadIdx.x] = all.get(channel, block);
    __syncthreads();
    const int count = static_cast<int>(smaller(kThreads, blocks - first));
    if (threadIdx.x == 0) {
#pragma unroll 8
      for (int i = 0; i < count; ++i) add(sum, staged[i]);
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) all.finish(channel, sum);
}

// Few channels of many blocks each would leave a thread for each channel waiting for memory.
template <class Sum, class Finish>
void run_channels(Queue queue, const SumChannel<Sum, Finish>& all) {
  constexpr int64_t kFew = 4096, kMany = 16;
  if (all.grid.channels > kFew || all.grid.channels == 0 || all.grid.blocks < kMany) {
    return run(queue, all);
  }
  const auto grid = static_cast<unsigned>(all.grid.channels);
  sum_channel<<<grid, kThreads, 0, queue.stream>>>(all);
}

template <class Terms, class Sum, class Finish>
void add_up(Queue queue, const Terms& terms, const SumGrid& grid, bool lanes_first, Sum* lanes,
            Sum* blocks, const Finish& finish) {
  run(queue, SumLanes<Terms>{terms, grid, lanes_first, lanes});
  run(queue, SumBlocks<Sum>{grid, lanes, blocks});
  run_channels(queue, SumChannel<Sum, Finish>{grid, blocks, finish});
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
