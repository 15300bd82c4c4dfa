// Launching work: items that are shared out among threads, and values that teams of threads bring
// together.
#pragma once

#include <cub/block/block_reduce.cuh>
#include <cub/warp/warp_reduce.cuh>

#include "memory.h"

namespace torchquant::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksOfMultiprocessor = 32;  // four times what it holds at once: more is a loop

inline unsigned grid_of(Queue queue, int64_t blocks) {
  return static_cast<unsigned>(
      smaller(blocks, int64_t{queue.multiprocessors} * kBlocksOfMultiprocessor));
}

template <class Work>
__global__ void __launch_bounds__(kThreads) run_items(Work work) {
  do_share(work, {int64_t{blockIdx.x} * kThreads + threadIdx.x, int64_t{gridDim.x} * kThreads});
}

template <class Work>
void run(Queue queue, const Work& work) {
  const int64_t items = work.items();
  if (items == 0) return;
  run_items<<<grid_of(queue, divide_up(items, kThreads)), kThreads, 0, queue.stream>>>(work);
}

// The value of the team's first lane, for all lanes of a part of a warp.
template <int kLanes, class Value>
__device__ Value from_first(Value value) {
  constexpr int kWords = sizeof(Value) / sizeof(unsigned);
  unsigned words[kWords];
  memcpy(words, &value, sizeof(Value));
#pragma unroll
  for (int i = 0; i < kWords; ++i) words[i] = __shfl_sync(0xffffffff, words[i], 0, kLanes);
  memcpy(&value, words, sizeof(Value));
  return value;
}

// The value of all lanes of a team, which every one of them gets.
template <int kLanes, class Teams>
__device__ typename Teams::Value bring_together(typename Teams::Value value) {
  using Value = typename Teams::Value;
  if constexpr (kLanes == kThreads) {
    using Reduce = cub::BlockReduce<Value, kThreads>;
    __shared__ typename Reduce::TempStorage storage;
    __shared__ Value all;
    value = Reduce(storage).Reduce(value, typename Teams::Merge());
    if (threadIdx.x == 0) all = value;
    __syncthreads();
    value = all;
    __syncthreads();  // what is shared may be written again
    return value;
  } else {
    using Reduce = cub::WarpReduce<Value, kLanes>;
    __shared__ typename Reduce::TempStorage storage[kThreads / kLanes];
    value = Reduce(storage[threadIdx.x / kLanes]).Reduce(value, typename Teams::Merge());
    return from_first<kLanes>(value);
  }
}

template <int kLanes, class Teams, class Finish>
__global__ void __launch_bounds__(kThreads) run_teams(Teams teams, Finish finish) {
  constexpr int kTeams = kThreads / kLanes;
  const Share lane = {threadIdx.x % kLanes, kLanes};
  const int64_t count = teams.teams();
  for (int64_t i = int64_t{blockIdx.x} * kTeams; i < count; i += int64_t{gridDim.x} * kTeams) {
    const int64_t team = i + threadIdx.x / kLanes;
    auto value = team < count ? teams.see(team, lane) : Teams::nothing();
    if constexpr (kLanes > 1) value = bring_together<kLanes, Teams>(value);
    if (team < count) finish(team, lane, value);
  }
}

template <int kLanes, class Teams, class Finish>
void run_with_lanes(Queue queue, const Teams& teams, const Finish& finish) {
  const int64_t count = teams.teams();
  if (count == 0) return;
  const unsigned grid = grid_of(queue, divide_up(count, kThreads / kLanes));
  run_teams<kLanes><<<grid, kThreads, 0, queue.stream>>>(teams, finish);
}

// Threads that suit values which lie `n` at a time: part of a warp, a warp, or a block.
inline int lanes_for(int64_t n) { return n <= 256 ? 8 : n <= 2048 ? 32 : kThreads; }

template <class Teams, class Finish>
void run(Queue queue, const Teams& teams, const Finish& finish, int64_t n) {
  const int lanes = lanes_for(n);
  if (lanes == 8) return run_with_lanes<8>(queue, teams, finish);
  if (lanes == 32) return run_with_lanes<32>(queue, teams, finish);
  run_with_lanes<kThreads>(queue, teams, finish);
}

}  // namespace
}  // namespace torchquant::kernels::cuda
