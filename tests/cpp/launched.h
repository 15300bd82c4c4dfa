// CUDA launches on the host: what launch.cuh and histogram.cu let threads do at once, one thread
// after the other, in an order that is not theirs. A result that depends on the order is wrong.
#pragma once

#include <array>
#include <iterator>
#include <numeric>
#include <vector>

#include "kernels/cuda/histogram.h"
#include "kernels/cuda/memory.h"

namespace torchquant::kernels::cuda {

// Calls visit(i) once for every i below n, in steps that go around.
template <class Visit>
void for_each_in_disorder(int64_t n, Visit visit) {
  int64_t step = 11;
  while (n > 0 && std::gcd(step, n) != 1) ++step;
  for (int64_t i = 0; i < n; ++i) visit((i * step + 7) % n);
}

struct Grid {
  int64_t blocks;
  int64_t threads;
};

// Another at every call, so that a test of many sizes meets all: with more threads than items, and
// with so few that each has several.
inline Grid next_grid() {
  static constexpr Grid kGrids[] = {{1, 256}, {3, 256}, {1, 1}, {2, 32}, {7, 5}};
  static size_t calls = 0;
  return kGrids[calls++ % std::size(kGrids)];
}

template <class Work>
void run(const Work& work) {
  const Grid grid = next_grid();
  const int64_t threads = grid.blocks * grid.threads;
  for_each_in_disorder(threads, [&](int64_t thread) { do_share(work, {thread, threads}); });
}

// As cub does it: the upper half of the lanes to the lower one, and again.
template <class Merge, class Value, size_t kLanes>
Value bring_together(std::array<Value, kLanes> values) {
  for (size_t half = kLanes / 2; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) values[i] = Merge()(values[i], values[i + half]);
  }
  return values[0];
}

template <int kLanes, class Teams, class Finish>
void run_teams(const Teams& teams, const Finish& finish) {
  using Value = typename Teams::Value;
  for_each_in_disorder(teams.teams(), [&](int64_t team) {
    std::array<Value, kLanes> seen;
    seen.fill(Teams::nothing());
    for_each_in_disorder(kLanes, [&](int64_t lane) {
      seen[static_cast<size_t>(lane)] = teams.see(team, {lane, kLanes});
    });
    const Value value = bring_together<typename Teams::Merge>(seen);
    for_each_in_disorder(kLanes, [&](int64_t lane) { finish(team, {lane, kLanes}, value); });
  });
}

// What histogram_observe does: counts, and adds to the range.
template <int kThreads, class Work>
void count_values(const Work& work, float* range) {
  SeenRange all = {INFINITY, -INFINITY};
  for_each_in_disorder(work.blocks(), [&](int64_t block) {
    std::vector<uint32_t> words(kCounterWords, 0xdeadbeef);
    std::array<SeenRange, kThreads> seen;
    const auto with_threads = [](auto phase) {
      for_each_in_disorder(kThreads, [&](int64_t thread) { phase(Share{thread, kThreads}); });
    };
    with_threads([&](Share thread) { work.clear(words.data(), thread); });
    with_threads([&](Share thread) {
      seen[static_cast<size_t>(thread.first)] = work.observe(block, words.data(), thread);
    });
    with_threads([&](Share thread) { work.flush(words.data(), thread); });
    all = MergeSeen()(bring_together<MergeSeen>(seen), all);
  });
  merge_into(range, all);
}

}  // namespace torchquant::kernels::cuda
