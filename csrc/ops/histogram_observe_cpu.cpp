#include <torch/library.h>

#include <mutex>

#include "histogram_state.h"
#include "scratch.h"
#include "source.h"

namespace torchquant::ops {
namespace {

using kernels::kNothingSeen;
using kernels::Observed;

// Half a megabyte for each thread that ever observed, zero between calls.
struct Tables {
  std::vector<uint32_t> counters = std::vector<uint32_t>(kBins * kernels::kTables);
};

// Adds elements [begin, end), fewer than 2^32, to the tables. Only the first read may fail, for
// want of memory: later there would be something in the tables.
Observed observe_elements(const Source& x, int64_t begin, int64_t end, uint32_t* tables) {
  Observed seen = kNothingSeen;
  Piece piece;
  while (begin < end) {
    const int64_t stop = x.stop_of(begin, end);
    const void* data = x.read(begin, stop, piece);
    kernels::active().histogram.observe(data, kernel_float(x.dtype()), stop - begin, tables, seen);
    begin = stop;
  }
  return seen;
}

// + 0 makes -0 a 0: which of them came first must not show.
void merge_range(const Observed& seen, float* range) {
  range[0] = std::min(range[0], seen.min) + 0.0f;
  range[1] = std::max(range[1], seen.max) + 0.0f;
}

// Held for the microseconds of a flush: threads of the caller's may observe into one state.
std::mutex& merging() {
  static std::mutex mutex;
  return mutex;
}

void observe(const Source& x, int64_t* counts, float* range) {
  constexpr int64_t kMost = int64_t{1} << 31;  // what a counter holds with certainty
  parallel_for(0, x.size(), kGrain, [&](int64_t begin, int64_t end) {
    uint32_t* tables = of_thread<Tables>().counters.data();
    for (; begin < end; begin += kMost) {
      const Observed seen = observe_elements(x, begin, std::min(end, begin + kMost), tables);
      const std::lock_guard lock(merging());
      kernels::active().histogram.flush(tables, seen, counts);
      merge_range(seen, range);
    }
  });
}

void histogram_observe_cpu(Tensor& counts, Tensor& range, const Tensor& input) {
  check_histogram_observe(counts, range, input);
  const Source x(MemoryOrder(input).of(input), Source::Reads::rows);
  update_histogram(
      counts, range, input, [&](const Tensor& dense_counts, const Tensor& dense_range) {
        observe(x, dense_counts.mutable_data_ptr<int64_t>(), dense_range.mutable_data_ptr<float>());
      });
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CPU, m) { m.impl("histogram_observe_", &histogram_observe_cpu); }

}  // namespace torchquant::ops
