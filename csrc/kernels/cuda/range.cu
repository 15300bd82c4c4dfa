#include "launch.cuh"
#include "range.h"

namespace torchquant::kernels::cuda {
namespace {

// Runs shorter than this are a thread's each: neighbouring threads then read what lies side by
// side.
constexpr int64_t kShortRun = 16;

template <class Teams, class Finish>
void run_ranges(Queue queue, const Teams& teams, const Finish& finish, const Channels& channels) {
  if (channels.inner < kShortRun) return run_with_lanes<1>(queue, teams, finish);
  run(queue, teams, finish, channels.inner);
}

}  // namespace

// As many as keep the card busy, of at least kLeast values of a run, or as many runs.
int64_t range_splits(Queue queue, const Channels& channels) {
  if (channels.count == 0) return 1;
  constexpr int64_t kLeast = 16384, kThreadsOfMultiprocessor = 2048;
  const int64_t lanes = channels.inner < kShortRun ? 1 : lanes_for(channels.inner);
  const int64_t wanted =
      divide_up(queue.multiprocessors * kThreadsOfMultiprocessor, lanes * channels.count);
  const int64_t size = channels.outer * channels.inner;
  const int64_t most = channels.outer > 1 ? smaller(channels.outer, divide_up(size, 16 * lanes))
                                          : divide_up(size, kLeast);
  const int64_t splits = smaller(wanted, most);
  return splits > 1 ? splits : 1;
}

void choose_qparams(Queue queue, const void* x, Float type, const Channels& channels,
                    int64_t splits, Range* parts, const ChosenCodes& codes, float* scale,
                    int32_t* zero_point) {
  const KeepQParams keep = {codes, scale, zero_point};
  with_type(type, [&](auto value) {
    using T = decltype(value);
    const PartsOfChannels<T> all = {{}, static_cast<const T*>(x), channels, splits};
    if (splits == 1) return run_ranges(queue, all, keep, channels);
    run_ranges(queue, all, KeepPart{parts}, channels);
  });
  if (splits == 1) return;
  run(queue, RangesOfParts{{}, parts, channels.count, splits}, keep, splits);
}

void quantize_rows(Queue queue, const GroupedRows& rows, Float from, void* q, int64_t q_stride,
                   Int to, const ChosenCodes& codes, int32_t shift, float* scale,
                   int32_t* zero_point) {
  with_type(from, [&](auto value) {
    with_type(to, [&](auto code) {
      using T = decltype(value);
      using Code = decltype(code);
      const Groups<T> groups = {{}, rows_of<T>(rows.x), rows};
      run(queue, groups,
          QuantizeGroup<T, Code>{
              groups, static_cast<Code*>(q), q_stride, shift, {codes, scale, zero_point}},
          rows.group);
    });
  });
}

}  // namespace torchquant::kernels::cuda
