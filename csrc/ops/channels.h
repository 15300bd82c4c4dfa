// One view for every granularity: elements in their order as rows of runs with a scale and a zero
// point for each run. per_tensor is one run, per_token has one for each row, per_group several in a
// row, and per_channel repeats its channels.
#pragma once

#include "check.h"
#include "source.h"

namespace torchquant::ops {

// `outer` times `channels` runs of `inner` elements, that of one channel each; only where several
// make up a row of `row` elements may the last of them be shorter.
struct ChannelView {
  int64_t outer;
  int64_t channels;
  int64_t inner;
  int64_t row;

  int64_t runs() const { return outer * channels; }
  int64_t runs_of_row() const { return at::divup(row, inner); }
  int64_t size() const { return row == 0 ? 0 : outer * channels / runs_of_row() * row; }
};

inline ChannelView per_tensor_view(const at::Tensor& input) {
  return {1, 1, input.numel(), input.numel()};
}

inline ChannelView per_channel_view(const at::Tensor& input, int64_t axis) {
  if (input.numel() == 0) return {0, input.size(axis), 0, 0};  // products may not fit int64
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

// The scale and the zero point of each channel. Tensors from files lie at any address.
class Params {
 public:
  Params(const Tensor& scale, const Tensor& zero_point)
      : scale_(scale.contiguous()),
        zero_point_(zero_point.contiguous()),
        scales_(static_cast<const float*>(scale_.const_data_ptr())),
        zero_points_(static_cast<const int32_t*>(zero_point_.const_data_ptr())) {}

  int64_t size() const { return scale_.numel(); }

  // From `channel` on.
  kernels::ChannelParams from(int64_t channel, int64_t quant_min, int64_t quant_max) const {
    return {scales_ + channel, zero_points_ + channel, static_cast<int32_t>(quant_min),
            static_cast<int32_t>(quant_max)};
  }

  QParams operator[](int64_t channel) const {
    QParams one;
    std::memcpy(&one.scale, scales_ + channel, sizeof(float));
    std::memcpy(&one.zero_point, zero_points_ + channel, sizeof(int32_t));
    return one;
  }

 private:
  Tensor scale_;
  Tensor zero_point_;
  const float* scales_;
  const int32_t* zero_points_;
};

// The active kernels, or the scalar ones where a zero point is beyond what vectors compute exactly.
inline const kernels::Kernels& kernels_for(const int32_t* zero_point, int64_t count) {
  uint32_t beyond = 0;
  for (int64_t i = 0; i < count; ++i) {
    int32_t zero;
    std::memcpy(&zero, zero_point + i, sizeof(zero));
    beyond |=
        static_cast<uint32_t>(zero) + kernels::kVectorZeroPoint > 2 * kernels::kVectorZeroPoint;
  }
  return beyond == 0 ? kernels::active() : kernels::scalar();
}

inline const kernels::Kernels& kernels_for(const Params& params) {
  return kernels_for(params.from(0, 0, 0).zero_point, params.size());
}

// Ranges merge by minimum and maximum, so their order, and the number of threads, do not matter.
inline Range range_of_all(const Source& x) {
  const auto type = kernel_float(x.dtype());
  return at::parallel_reduce(
      0, x.size(), kGrain, kEmptyRange,
      [&](int64_t begin, int64_t end, Range range) {
        Piece piece;
        while (begin < end) {
          const int64_t stop = x.stop_of(begin, end);
          const void* data = x.read(begin, stop, piece);
          range = merge(kernels::active().range.span(data, type, stop - begin), range);
          begin = stop;
        }
        return range;
      },
      merge);
}

// Runs that follow each other: `count` of `size` elements each, from element `begin` on, the first
// of which is of `channel`.
struct Runs {
  int64_t begin;
  int64_t count;
  int64_t size;
  int64_t channel;
};

// Calls visit(runs) for the runs of elements [begin, end), as many at once as have channels that
// follow each other; the first and the last run may be cut.
template <class Visit>
void for_each_run_of(const ChannelView& view, int64_t begin, int64_t end, Visit visit) {
  const int64_t row = begin / view.row, column = begin % view.row;
  int64_t channel = (row * view.runs_of_row() + column / view.inner) % view.channels;
  const bool has_short_runs = view.row % view.inner != 0;
  int64_t row_end = has_short_runs ? (row + 1) * view.row : end;
  int64_t cut = column % view.inner;  // of the run that `begin` lies in
  while (begin < end) {
    const int64_t stop = std::min(end, row_end);
    const int64_t whole = cut ? 0 : (stop - begin) / view.inner;
    const Runs runs =
        whole > 0 ? Runs{begin, std::min(whole, view.channels - channel), view.inner, channel}
                  : Runs{begin, 1, std::min(view.inner - cut, stop - begin), channel};
    visit(runs);
    cut = 0;
    begin += runs.count * runs.size;
    channel = (channel + runs.count) % view.channels;
    if (begin == row_end) row_end += view.row;
  }
}

// Runs of one channel shorter than this are walked across channels, a parameter for each element.
inline constexpr int64_t kShortRun = 16;

inline bool has_long_runs(const ChannelView& view) {
  return view.channels <= 1 || view.inner >= kShortRun;
}

// Short runs: a scale and a zero point for each element, either of a whole period of the data or,
// where every run has its own, filled in for a piece at a time.
class ElementParams {
 public:
  ElementParams(const Params& params, const ChannelView& view) : params_(params), view_(view) {
    if (has_long_runs(view) || view.outer == 1) return;
    const int64_t width = view.channels * view.inner;
    constexpr int64_t kShortPeriod = 256;
    if (view.inner == 1 && width >= kShortPeriod) {  // the parameters are their own period
      period_ = width;
      periodic_ = params.from(0, 0, 0);
      return;
    }
    period_ = std::min(view.outer, at::divup(kPiece, width)) * width;
    scale_.resize(period_);
    zero_point_.resize(period_);
    fill(0, period_, scale_.data(), zero_point_.data());
    periodic_ = {scale_.data(), zero_point_.data(), 0, 0};
  }

  // Calls columns(begin, end, scales, zero_points) for pieces of [begin, end).
  template <class Columns>
  void cover(int64_t begin, int64_t end, Columns columns) const {
    if (period_ == 0) return cover_filling(begin, end, columns);
    while (begin < end) {
      const int64_t offset = begin % period_;
      const int64_t stop = std::min(end, begin - offset + period_);
      columns(begin, stop, periodic_.scale + offset, periodic_.zero_point + offset);
      begin = stop;
    }
  }

 private:
  template <class Columns>
  void cover_filling(int64_t begin, int64_t end, Columns columns) const {
    const auto size = static_cast<size_t>(std::min(end - begin, kPiece));
    std::vector<float> scale(size);
    std::vector<int32_t> zero_point(size);
    while (begin < end) {
      const int64_t stop = std::min(end, begin + kPiece);
      fill(begin, stop, scale.data(), zero_point.data());
      columns(begin, stop, scale.data(), zero_point.data());
      begin = stop;
    }
  }

  void fill(int64_t begin, int64_t end, float* scale, int32_t* zero_point) const {
    for_each_run_of(view_, begin, end, [&](const Runs& runs) {
      for (int64_t i = 0; i < runs.count; ++i) {
        const QParams one = params_[runs.channel + i];
        const int64_t first = runs.begin - begin + i * runs.size;
        std::fill_n(scale + first, runs.size, one.scale);
        std::fill_n(zero_point + first, runs.size, one.zero_point);
      }
    });
  }

  const Params& params_;
  const ChannelView& view_;
  int64_t period_ = 0;
  kernels::ChannelParams periodic_ = {};
  std::vector<float> scale_;
  std::vector<int32_t> zero_point_;
};

// Covers the source, in parallel, with runs of channels, runs(data, runs), or, where channels
// alternate too fast for that, with columns(data, begin, end, scales, zero_points). data is where
// their first element lies.
template <class OfRuns, class OfColumns>
void for_each_piece(const Source& source, const ChannelView& view, const Params& params,
                    OfRuns of_runs, OfColumns of_columns) {
  if (source.size() == 0) return;
  const ElementParams element_params(params, view);
  const auto size = static_cast<int64_t>(c10::elementSize(source.dtype()));
  const bool long_runs = has_long_runs(view);
  for_each_stretch(source, [&](int64_t begin, int64_t end, const void* data) {
    const auto at = [&](int64_t i) { return static_cast<const char*>(data) + (i - begin) * size; };
    if (long_runs) {
      for_each_run_of(view, begin, end, [&](const Runs& runs) { of_runs(at(runs.begin), runs); });
    } else {
      element_params.cover(begin, end, [&](int64_t from, int64_t to, auto... params) {
        of_columns(at(from), from, to, params...);
      });
    }
  });
}

}  // namespace torchquant::ops
