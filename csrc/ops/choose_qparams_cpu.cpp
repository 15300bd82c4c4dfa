#include <torch/library.h>

#include <mutex>

#include "choose_qparams.h"

namespace torchquant::ops {
namespace {

using Ranges = std::vector<Range>;

// Where the chosen parameters go, from the first channel on.
struct Chosen {
  float* scale;
  int32_t* zero_point;
  kernels::ChosenCodes codes;

  void choose(int64_t channel, const Range* ranges, int64_t count) const {
    kernels::active().range.choose(ranges, count, codes, scale + channel, zero_point + channel);
  }
};

// Merges the ranges of elements [begin, end) into those of their channels, the first of which has
// ranges[0].
void merge_runs(const Source& x, const ChannelView& view, int64_t begin, int64_t end,
                int64_t first_channel, Ranges& ranges) {
  Piece piece;
  while (begin < end) {
    const int64_t stop = x.stop_of(begin, end);
    const char* data = static_cast<const char*>(x.read(begin, stop, piece));
    for_each_run_of(view, begin, stop, [&](const Runs& runs) {
      const auto skipped = (runs.begin - begin) * static_cast<int64_t>(c10::elementSize(x.dtype()));
      kernels::active().range.runs(data + skipped, kernel_float(x.dtype()), runs.count, runs.size,
                                   ranges.data() + runs.channel - first_channel);
    });
    begin = stop;
  }
}

// The first element of run `index`, or the end of the data.
int64_t begin_of(const ChannelView& view, int64_t index) {
  if (index == view.runs()) return view.size();
  return index / view.runs_of_row() * view.row + index % view.runs_of_row() * view.inner;
}

// Channels are shared out, a few at a time.
void choose_for_runs(const Source& x, const ChannelView& view, const Chosen& chosen) {
  constexpr int64_t kFew = 256;
  const int64_t channel_size = std::max<int64_t>(1, view.outer * view.inner);
  parallel_for(0, view.channels, at::divup(kGrain, channel_size), [&](int64_t from, int64_t to) {
    Ranges ranges;
    for (int64_t channel = from; channel < to; channel += kFew) {
      const int64_t count = std::min(kFew, to - channel);
      ranges.assign(count, kEmptyRange);
      for (int64_t i = 0; i < view.outer; ++i) {
        const int64_t run = i * view.channels + channel;
        merge_runs(x, view, begin_of(view, run), begin_of(view, run + count), channel, ranges);
      }
      chosen.choose(channel, ranges.data(), count);
    }
  });
}

struct ColumnRanges {
  std::vector<float> min;
  std::vector<float> max;
  std::vector<uint32_t> absmax_bits;

  explicit ColumnRanges(int64_t columns)
      : min(columns, kEmptyRange.min), max(columns, kEmptyRange.max), absmax_bits(columns, 0) {}

  void merge_into(Ranges& ranges, int64_t inner) const {
    for (size_t i = 0; i < min.size(); ++i) {
      Range& range = ranges[i / inner];
      range = merge({min[i], max[i], absmax_bits[i]}, range);
    }
  }
};

// Channels that alternate within a few elements: ranges of whole rows of them, column by column.
// The rows lie `stride` elements apart.
Ranges ranges_of_columns(const Source& x, const ChannelView& view, int64_t stride) {
  const int64_t width = view.channels * view.inner;
  Ranges ranges(view.channels, kEmptyRange);
  std::mutex mutex;
  parallel_for(0, view.outer, at::divup(kGrain, width), [&](int64_t begin, int64_t end) {
    ColumnRanges columns(width);
    kernels::active().range.columns(x.at_offset(begin * stride), kernel_float(x.dtype()),
                                    end - begin, stride, width, columns.min.data(),
                                    columns.max.data(), columns.absmax_bits.data());
    const std::lock_guard<std::mutex> lock(mutex);
    columns.merge_into(ranges, view.inner);
  });
  return ranges;
}

// The distance of the rows of `width` elements; -1 where they lie at several.
int64_t row_stride(const Layout& layout, int64_t width) {
  if (layout.is_contiguous()) return width;
  return layout.dims() == 2 && layout.row() == width ? layout.strides[0] : -1;
}

Ranges ranges_of_columns(const Tensor& input, const ChannelView& view) {
  const Source x(input, Source::Reads::rows);
  const int64_t width = view.channels * view.inner;
  const int64_t stride = row_stride(x.layout(), width);
  if (stride >= 0) return ranges_of_columns(x, view, stride);
  return ranges_of_columns(Source(input.contiguous(), Source::Reads::rows), view, width);
}

void choose(const Tensor& input, const ChannelView& view, int64_t quant_min, int64_t quant_max,
            bool symmetric, const std::tuple<Tensor, Tensor>& qparams) {
  const DefaultFloats floats;
  const Chosen chosen = {std::get<0>(qparams).mutable_data_ptr<float>(),
                         std::get<1>(qparams).mutable_data_ptr<int32_t>(),
                         chosen_codes(quant_min, quant_max, symmetric)};
  const auto choose_all = [&](const Ranges& ranges) {
    chosen.choose(0, ranges.data(), view.channels);
  };
  if (view.size() == 0) return choose_all(Ranges(view.channels, kEmptyRange));
  if (view.channels == 1) return choose_all({range_of_all(Source(input, Source::Reads::rows))});
  // One row of many channels gives the columns nothing to merge.
  if (!has_long_runs(view) && view.outer > 1) return choose_all(ranges_of_columns(input, view));
  choose_for_runs(Source(input, Source::Reads::rows), view, chosen);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CPU, m) {
  m.impl("choose_qparams_per_tensor", &choose_qparams_per_tensor<choose>);
  m.impl("choose_qparams_per_channel", &choose_qparams_per_channel<choose>);
  m.impl("choose_qparams_per_group", &choose_qparams_per_group<choose>);
  m.impl("choose_qparams_per_token", &choose_qparams_per_token<choose>);
}

}  // namespace torchquant::ops
