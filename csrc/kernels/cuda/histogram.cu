#include "histogram.h"
#include "launch.cuh"

namespace torchquant::kernels::cuda {
namespace {

constexpr int kCountingThreads = 1024;
using ReduceSeen = cub::BlockReduce<SeenRange, kCountingThreads>;

// 64 KiB, all that the smallest processors give a block: what brings the ranges together lies in
// the same place as the counters.
union Shared {
  uint32_t words[kCounterWords];
  typename ReduceSeen::TempStorage storage;
};

struct AtomicAdd {
  __device__ void operator()(uint32_t* address, uint32_t amount) const {
    atomicAdd(address, amount);
  }
  __device__ void operator()(int64_t* address, uint32_t amount) const {
    atomicAdd(reinterpret_cast<unsigned long long*>(address),
              static_cast<unsigned long long>(amount));
  }
};

template <class Work>
__global__ void __launch_bounds__(kCountingThreads) count_values(Work work, SeenRange* seen) {
  extern __shared__ __align__(16) char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  const Share thread = {threadIdx.x, kCountingThreads};
  work.clear(shared.words, thread);
  __syncthreads();
  const SeenRange own = work.observe(blockIdx.x, shared.words, thread);
  __syncthreads();
  work.flush(shared.words, thread);
  __syncthreads();
  const SeenRange all = ReduceSeen(shared.storage).Reduce(own, MergeSeen());
  if (threadIdx.x == 0) seen[blockIdx.x] = all;
}

__global__ void __launch_bounds__(kCountingThreads)
    merge_seen(const SeenRange* seen, int64_t n, float* range) {
  __shared__ typename ReduceSeen::TempStorage storage;
  SeenRange own = {INFINITY, -INFINITY};
  for (int64_t i = threadIdx.x; i < n; i += kCountingThreads) own = MergeSeen()(seen[i], own);
  const SeenRange all = ReduceSeen(storage).Reduce(own, MergeSeen());
  if (threadIdx.x == 0) merge_into(range, all);
}

// As long as leaves every multiprocessor a stretch, but not so short that clearing and adding up
// the counters would take longer than counting.
int64_t stretch_of(Queue queue, int64_t n) {
  constexpr int64_t kShortest = 8192;
  const int64_t shared_out = divide_up(n, queue.multiprocessors);
  return shared_out < kShortest ? kShortest : smaller(shared_out, kLongestStretch);
}

}  // namespace

int64_t histogram_blocks(Queue queue, int64_t n) { return divide_up(n, stretch_of(queue, n)); }

void histogram_observe(Queue queue, const void* x, Float type, int64_t n, int64_t* counts,
                       SeenRange* seen, float* range) {
  if (n == 0) return;
  const auto blocks = static_cast<unsigned>(histogram_blocks(queue, n));
  with_type(type, [&](auto value) {
    using Work = CountValues<decltype(value), AtomicAdd>;
    const Work work = {static_cast<const decltype(value)*>(x), n, stretch_of(queue, n), counts, {}};
    cudaFuncSetAttribute(count_values<Work>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         sizeof(Shared));
    count_values<<<blocks, kCountingThreads, sizeof(Shared), queue.stream>>>(work, seen);
  });
  merge_seen<<<1, kCountingThreads, 0, queue.stream>>>(seen, blocks, range);
}

}  // namespace torchquant::kernels::cuda
