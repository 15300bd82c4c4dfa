#include <torch/library.h>

#include <mutex>

#include "channels.h"
#include "outputs.h"

namespace torchquant::ops {
namespace {

using Ranges = std::vector<Range>;

Ranges ranges_of_runs(const Tensor& x, const ChannelView& view) {
  const auto type = kernel_float(x.scalar_type());
  Ranges ranges(view.channels, kEmptyRange);
  const int64_t channel_size = std::max<int64_t>(1, view.outer * view.inner);
  at::parallel_for(
      0, view.channels, at::divup(kGrain, channel_size), [&](int64_t from, int64_t to) {
        for (int64_t channel = from; channel < to; ++channel) {
          for (int64_t i = 0; i < view.outer; ++i) {
            const Run run = run_of(view, i * view.channels + channel);
            const Range range =
                kernels::active().range.span(element(x, run.begin), type, run.end - run.begin);
            ranges[channel] = merge(range, ranges[channel]);
          }
        }
      });
  return ranges;
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
Ranges ranges_of_columns(const Tensor& x, const ChannelView& view) {
  const auto type = kernel_float(x.scalar_type());
  const int64_t width = view.channels * view.inner;
  Ranges ranges(view.channels, kEmptyRange);
  std::mutex mutex;
  at::parallel_for(0, view.outer, at::divup(kGrain, width), [&](int64_t begin, int64_t end) {
    ColumnRanges columns(width);
    kernels::active().range.columns(element(x, begin * width), type, end - begin, width,
                                    columns.min.data(), columns.max.data(),
                                    columns.absmax_bits.data());
    const std::lock_guard<std::mutex> lock(mutex);
    columns.merge_into(ranges, view.inner);
  });
  return ranges;
}

Ranges channel_ranges(const Tensor& x, const ChannelView& view) {
  if (view.size() == 0) return Ranges(view.channels, kEmptyRange);
  if (view.channels == 1) return {range_of_all(x)};
  // One row of many channels gives the columns nothing to merge.
  if (has_long_runs(view) || view.outer == 1) return ranges_of_runs(x, view);
  return ranges_of_columns(x, view);
}

void choose(const Tensor& input, const ChannelView& view, int64_t quant_min, int64_t quant_max,
            bool symmetric, const std::tuple<Tensor, Tensor>& qparams) {
  const Ranges ranges = channel_ranges(input.contiguous(), view);
  auto* scale = std::get<0>(qparams).mutable_data_ptr<float>();
  auto* zero_point = std::get<1>(qparams).mutable_data_ptr<int32_t>();
  constexpr int64_t kChoices = 1024;  // some 10 us
  at::parallel_for(0, view.channels, kChoices, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const QParams chosen = choose_for(ranges[i], quant_min, quant_max, symmetric);
      scale[i] = chosen.scale;
      zero_point[i] = chosen.zero_point;
    }
  });
}

std::tuple<Tensor, Tensor> choose_qparams_per_tensor_cpu(const Tensor& input, int64_t quant_min,
                                                         int64_t quant_max, bool symmetric) {
  check_choose_qparams(input, quant_min, quant_max, symmetric);
  auto qparams = new_qparams_per_tensor(input);
  choose(input, per_tensor_view(input), quant_min, quant_max, symmetric, qparams);
  return qparams;
}

std::tuple<Tensor, Tensor> choose_qparams_per_channel_cpu(const Tensor& input, int64_t axis,
                                                          int64_t quant_min, int64_t quant_max,
                                                          bool symmetric) {
  check_choose_qparams(input, quant_min, quant_max, symmetric);
  axis = check_axis(input, axis);
  auto qparams = new_qparams_per_channel(input, axis);
  choose(input, per_channel_view(input, axis), quant_min, quant_max, symmetric, qparams);
  return qparams;
}

std::tuple<Tensor, Tensor> choose_qparams_per_group_cpu(const Tensor& input, int64_t group_size,
                                                        int64_t quant_min, int64_t quant_max,
                                                        bool symmetric) {
  check_choose_qparams(input, quant_min, quant_max, symmetric);
  check_group_size(input, group_size);
  auto qparams = new_qparams_per_group(input, group_size);
  choose(input, per_group_view(input, group_size), quant_min, quant_max, symmetric, qparams);
  return qparams;
}

std::tuple<Tensor, Tensor> choose_qparams_per_token_cpu(const Tensor& input, int64_t quant_min,
                                                        int64_t quant_max, bool symmetric) {
  check_choose_qparams(input, quant_min, quant_max, symmetric);
  check_min_dim(input, "input", 1);
  auto qparams = new_qparams_per_token(input);
  choose(input, per_token_view(input), quant_min, quant_max, symmetric, qparams);
  return qparams;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CPU, m) {
  m.impl("choose_qparams_per_tensor", &choose_qparams_per_tensor_cpu);
  m.impl("choose_qparams_per_channel", &choose_qparams_per_channel_cpu);
  m.impl("choose_qparams_per_group", &choose_qparams_per_group_cpu);
  m.impl("choose_qparams_per_token", &choose_qparams_per_token_cpu);
}

}  // namespace torchquant::ops
