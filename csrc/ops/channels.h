// One view for every granularity: contiguous data as rows of runs with a scale and a zero point for
// each run. per_tensor is one run, per_token has one for each row, per_group several in a row, and
// per_channel repeats its channels.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "check.h"
#include "kernel_types.h"

namespace torchquant::ops {

// `outer` times `channels` runs of `inner` elements, that of one channel each; only where several
// make up a row of `row` elements may the last of them be shorter.
struct ChannelView {
  int64_t outer;
  int64_t channels;
  int64_t inner;
  int64_t row;

  int64_t runs_of_row() const { return at::divup(row, inner); }
  int64_t size() const { return row == 0 ? 0 : outer * channels / runs_of_row() * row; }
};

inline ChannelView per_tensor_view(const at::Tensor& input) {
  return {1, 1, input.numel(), input.numel()};
}

inline ChannelView per_channel_view(const at::Tensor& input, int64_t axis) {
  const int64_t inner = c10::multiply_integers(input.sizes().slice(axis + 1));
  return {c10::multiply_integers(input.sizes().slice(0, axis)), input.size(axis), inner, inner};
}

inline int64_t row_count(const at::Tensor& input) {
  return c10::multiply_integers(input.sizes().slice(0, input.dim() - 1));
}

inline ChannelView per_token_view(const at::Tensor& input) {
  return {1, row_count(input), input.size(-1), input.size(-1)};
}

inline ChannelView per_group_view(const at::Tensor& input, int64_t group_size) {
  const int64_t row = input.size(-1), inner = std::min(group_size, std::max<int64_t>(1, row));
  return {1, row_count(input) * at::divup(row, inner), inner, row};
}

// The view of an input whose scale and zero point fit it.

inline ChannelView checked_per_tensor(const at::Tensor& input, const at::Tensor& scale,
                                      const at::Tensor& zero_point) {
  check_qparams_per_tensor(input, scale, zero_point);
  return per_tensor_view(input);
}

inline ChannelView checked_per_channel(const at::Tensor& input, const at::Tensor& scale,
                                       const at::Tensor& zero_point, int64_t axis) {
  check_qparams_per_channel(input, scale, zero_point, axis);
  return per_channel_view(input, check_axis(input, axis));
}

inline ChannelView checked_per_group(const at::Tensor& input, const at::Tensor& scale,
                                     const at::Tensor& zero_point, int64_t group_size) {
  check_qparams_per_group(input, scale, zero_point, group_size);
  return per_group_view(input, group_size);
}

inline ChannelView checked_per_token(const at::Tensor& input, const at::Tensor& scale,
                                     const at::Tensor& zero_point) {
  check_qparams_per_token(input, scale, zero_point);
  return per_token_view(input);
}

// Elements [begin, end) of one channel.
struct Run {
  int64_t begin;
  int64_t end;
  int64_t channel;
};

// Run `index` of the data.
inline Run run_of(const ChannelView& view, int64_t index) {
  const int64_t runs = view.runs_of_row();
  const int64_t row = index / runs * view.row, offset = index % runs * view.inner;
  return {row + offset, row + std::min(view.row, offset + view.inner), index % view.channels};
}

// Host copies of scale and zero_point, a pair for each channel.
struct ChannelParams {
  std::vector<float> scale;
  std::vector<int32_t> zero_point;
};

inline ChannelParams read_params(const at::Tensor& scale, const at::Tensor& zero_point,
                                 const ChannelView& view) {
  ChannelParams params = {std::vector<float>(view.channels), std::vector<int32_t>(view.channels)};
  // memcpy: tensors from files lie at any address.
  if (view.channels > 0) {
    std::memcpy(params.scale.data(), scale.contiguous().const_data_ptr(),
                params.scale.size() * sizeof(float));
    std::memcpy(params.zero_point.data(), zero_point.contiguous().const_data_ptr(),
                params.zero_point.size() * sizeof(int32_t));
  }
  return params;
}

// The active kernels, or the scalar ones where a zero point is beyond what vectors compute exactly.
inline const kernels::Kernels& kernels_for(c10::ArrayRef<int32_t> zero_point) {
  const bool ordinary = std::all_of(zero_point.begin(), zero_point.end(), [](int32_t zero) {
    return -kernels::kVectorZeroPoint <= zero && zero <= kernels::kVectorZeroPoint;
  });
  return ordinary ? kernels::active() : kernels::scalar();
}

// Ranges merge by minimum and maximum, so their order, and the number of threads, do not matter.
inline Range range_of_all(const at::Tensor& x) {
  const auto type = kernel_float(x.scalar_type());
  return at::parallel_reduce(
      0, x.numel(), kGrain, kEmptyRange,
      [&](int64_t begin, int64_t end, Range range) {
        return merge(kernels::active().range.span(element(x, begin), type, end - begin), range);
      },
      merge);
}

inline QParams choose_for(const Range& range, int64_t quant_min, int64_t quant_max,
                          bool symmetric) {
  const auto low = static_cast<int32_t>(quant_min), high = static_cast<int32_t>(quant_max);
  return (symmetric ? symmetric_qparams : affine_qparams)(range, low, high);
}

// Runs of one channel shorter than this are walked across channels, a parameter for each element.
inline constexpr int64_t kShortRun = 16;

inline bool has_long_runs(const ChannelView& view) {
  return view.channels <= 1 || view.inner >= kShortRun;
}

// Calls visit(run) for the runs of elements [begin, end), the first and the last cut to it.
template <class Visit>
void for_each_run_of(const ChannelView& view, int64_t begin, int64_t end, Visit visit) {
  int64_t index = begin / view.row * view.runs_of_row() + begin % view.row / view.inner;
  for (; begin < end; ++index) {
    const Run run = run_of(view, index);
    const int64_t run_end = std::min(end, run.end);
    visit(Run{begin, run_end, run.channel});
    begin = run_end;
  }
}

// Parameters repeated for each element of a period of the data that many vectors long.
inline ChannelParams repeat_params(const ChannelParams& params, const ChannelView& view) {
  constexpr int64_t kPeriod = 1024;
  const int64_t width = view.channels * view.inner;
  const int64_t repeats = std::min(view.outer, (kPeriod + width - 1) / width);
  ChannelParams repeated;
  repeated.scale.reserve(repeats * width);
  repeated.zero_point.reserve(repeats * width);
  for (int64_t i = 0; i < repeats * view.channels; ++i) {
    const int64_t channel = i % view.channels;
    repeated.scale.insert(repeated.scale.end(), view.inner, params.scale[channel]);
    repeated.zero_point.insert(repeated.zero_point.end(), view.inner, params.zero_point[channel]);
  }
  return repeated;
}

// Calls columns(begin, end, offset) for pieces of the data whose parameters begin at `offset` of a
// period, in parallel.
template <class Columns>
void for_each_period(int64_t size, int64_t period, Columns columns) {
  at::parallel_for(0, size, kGrain, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t offset = begin % period;
      const int64_t piece_end = std::min(end, begin - offset + period);
      columns(begin, piece_end, offset);
      begin = piece_end;
    }
  });
}

// The parameters of each element of a piece, where every run has its own.
struct PieceParams {
  static constexpr int64_t kPiece = 1024;
  float scale[kPiece];
  int32_t zero_point[kPiece];

  void fill(const ChannelView& view, const ChannelParams& params, int64_t begin, int64_t end) {
    for_each_run_of(view, begin, end, [&](const Run& run) {
      std::fill(scale + run.begin - begin, scale + run.end - begin, params.scale[run.channel]);
      std::fill(zero_point + run.begin - begin, zero_point + run.end - begin,
                params.zero_point[run.channel]);
    });
  }
};

// Short runs: columns(begin, end, scales, zero_points), with a parameter for each element.
template <class Columns>
void for_each_short_piece(const ChannelView& view, const ChannelParams& params, Columns columns) {
  if (view.outer == 1) {
    at::parallel_for(0, view.size(), kGrain, [&](int64_t begin, int64_t end) {
      PieceParams piece;
      for (; begin < end; begin += PieceParams::kPiece) {
        const int64_t piece_end = std::min(end, begin + PieceParams::kPiece);
        piece.fill(view, params, begin, piece_end);
        columns(begin, piece_end, piece.scale, piece.zero_point);
      }
    });
    return;
  }
  const ChannelParams repeated = repeat_params(params, view);
  const auto period = static_cast<int64_t>(repeated.scale.size());
  for_each_period(view.size(), period, [&](int64_t begin, int64_t end, int64_t offset) {
    columns(begin, end, repeated.scale.data() + offset, repeated.zero_point.data() + offset);
  });
}

// Covers the data, in parallel, with pieces of one channel, span(begin, end, scale, zero_point),
// or, where channels alternate too fast for that, of many: columns(begin, end, scales,
// zero_points).
template <class Span, class Columns>
void for_each_piece(const ChannelView& view, const ChannelParams& params, Span span,
                    Columns columns) {
  if (view.size() == 0) return;
  if (!has_long_runs(view)) return for_each_short_piece(view, params, columns);
  at::parallel_for(0, view.size(), kGrain, [&](int64_t begin, int64_t end) {
    for_each_run_of(view, begin, end, [&](const Run& run) {
      span(run.begin, run.end, params.scale[run.channel], params.zero_point[run.channel]);
    });
  });
}

}  // namespace torchquant::ops
