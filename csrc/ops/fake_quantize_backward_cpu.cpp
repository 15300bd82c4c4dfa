#include <torch/library.h>

#include "fake_quantize.h"

namespace torchquant::ops {
namespace {

using kernels::Gradients;
using kernels::kSumBlock;

// What the backward of one call reads and writes.
struct Backward {
  Tensor output;  // the gradient of the output, contiguous
  Tensor x;
  Tensor input;  // the gradient of x
  ChannelView view;
  Params params;
  int64_t quant_min;
  int64_t quant_max;

  const kernels::FakeQuantizeKernels& kernel = kernels_for(params).fake_quantize;
  kernels::Float type = kernel_float(x.scalar_type());

  kernels::ChannelParams params_from(int64_t channel) const {
    return params.from(channel, quant_min, quant_max);
  }
  // From element `index` on, the x of which lies at `data`.
  Gradients at(int64_t index, const void* data) const {
    return {element(output, index), data, mutable_element(input, index), type};
  }
};

void write_input_gradient(const Backward& b) {
  for_each_piece(
      Source(b.x, Source::Reads::rows_or_columns), b.view, b.params,
      [&](const void* data, const Runs& runs) {
        b.kernel.backward_runs(b.at(runs.begin, data), runs.count, runs.size,
                               b.params_from(runs.channel));
      },
      [&](const void* data, int64_t begin, int64_t end, const float* scales,
          const int32_t* zero_points) {
        b.kernel.backward_columns(b.at(begin, data), end - begin,
                                  {scales, zero_points, static_cast<int32_t>(b.quant_min),
                                   static_cast<int32_t>(b.quant_max)});
      });
}

// The sums over the blocks of each channel, [blocks][channels]: a block is kSumBlock elements of
// the channel that follow each other, in their order.
struct BlockSums {
  explicit BlockSums(const ChannelView& view)
      : channels(view.channels),
        blocks(at::divup(view.outer * view.inner, kSumBlock)),
        sums(blocks * channels) {}

  double& at(int64_t block, int64_t channel) { return sums[block * channels + channel]; }

  // Added in the order of the blocks: the same bits for any number of threads.
  void add_up(const Tensor& scale_gradient) const {
    auto* gradient = scale_gradient.mutable_data_ptr<float>();
    for (int64_t channel = 0; channel < channels; ++channel) {
      double sum = 0;
      for (int64_t block = 0; block < blocks; ++block) sum += sums[block * channels + channel];
      gradient[channel] = static_cast<float>(sum);
    }
  }

  int64_t channels;
  int64_t blocks;
  std::vector<double> sums;
};

// Calls visit(channel, block) for all, in parallel.
template <class Visit>
void for_each_block(const BlockSums& sums, int64_t channel_size, Visit visit) {
  const int64_t block_size = std::min(channel_size, kSumBlock);
  parallel_for(0, sums.channels * sums.blocks, at::divup(kGrain, block_size),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) visit(i / sums.blocks, i % sums.blocks);
               });
}

// The elements of each channel follow each other.
void sum_runs(const Backward& b, BlockSums& sums) {
  const Source x(b.x, Source::Reads::rows);
  const int64_t size = b.view.outer * b.view.inner;
  for_each_block(sums, size, [&](int64_t channel, int64_t block) {
    Piece piece;
    const int64_t begin = channel * size + block * kSumBlock;
    const int64_t end = std::min((channel + 1) * size, begin + kSumBlock);
    sums.at(block, channel) = b.kernel.slope_block(b.at(begin, x.read(begin, end, piece)),
                                                   end - begin, b.params_from(channel));
  });
}

// Each channel is a column: blocks of rows, cut into strips for the threads and for what stays in
// cache of their sums.
void sum_columns(const Backward& b, BlockSums& sums) {
  constexpr int64_t kNarrow = 64, kWide = 1024;
  const int64_t channels = sums.channels;
  const int64_t shared = at::divup(channels * sums.blocks, at::get_num_threads());
  const int64_t width = std::clamp(kernels::padded_columns(shared), kNarrow, kWide);
  const int64_t strips = at::divup(channels, width);
  const Tensor x = b.x.contiguous();
  const int64_t strip_size = std::min(b.view.outer, kSumBlock) * std::min(width, channels);
  parallel_for(0, strips * sums.blocks, at::divup(kGrain, strip_size),
               [&](int64_t from, int64_t to) {
                 for (int64_t i = from; i < to; ++i) {
                   const int64_t block = i / strips, channel = i % strips * width;
                   const int64_t columns = std::min(width, channels - channel);
                   const int64_t padded = kernels::padded_columns(columns);
                   const int64_t row = block * kSumBlock, first = row * channels + channel;
                   std::vector<double> lanes(kernels::kSumLanes * padded);
                   b.kernel.slope_columns(b.at(first, element(x, first)),
                                          std::min(kSumBlock, b.view.outer - row), channels,
                                          columns, b.params_from(channel), lanes.data());
                   for (int64_t lane = 0; lane < kernels::kSumLanes; ++lane) {
                     for (int64_t j = 0; j < columns; ++j) {
                       sums.at(block, channel + j) += lanes[lane * padded + j];
                     }
                   }
                 }
               });
}

// Calls copy(element, position, count) for the stretches of elements that make up a block of a
// channel whose runs lie apart.
template <class Copy>
void for_each_part(const ChannelView& view, int64_t channel, int64_t block, Copy copy) {
  const int64_t begin = block * kSumBlock;
  const int64_t end = std::min(view.outer * view.inner, begin + kSumBlock);
  for (int64_t i = begin; i < end;) {
    const int64_t stop = std::min(end, (i / view.inner + 1) * view.inner);
    const int64_t run = i / view.inner * view.channels + channel;
    copy(run * view.inner + i % view.inner, i - begin, stop - i);
    i = stop;
  }
}

// Each channel is many runs: its blocks are brought together, and what they give is put apart.
void sum_gathered(const Backward& b, BlockSums& sums) {
  const Tensor x = b.x.contiguous();
  const auto size = static_cast<int64_t>(x.element_size());
  for_each_block(sums, b.view.outer * b.view.inner, [&](int64_t channel, int64_t block) {
    Piece output(kSumBlock * size), inside(kSumBlock * size), input(kSumBlock * size);
    int64_t count = 0;
    for_each_part(b.view, channel, block, [&](int64_t index, int64_t position, int64_t n) {
      std::memcpy(output.data() + position * size, element(b.output, index), n * size);
      std::memcpy(inside.data() + position * size, element(x, index), n * size);
      count += n;
    });
    sums.at(block, channel) = b.kernel.slope_block(
        {output.data(), inside.data(), input.data(), b.type}, count, b.params_from(channel));
    for_each_part(b.view, channel, block, [&](int64_t index, int64_t position, int64_t n) {
      std::memcpy(mutable_element(b.input, index), input.data() + position * size, n * size);
    });
  });
}

void write_both_gradients(const Backward& b, const Tensor& scale_gradient) {
  BlockSums sums(b.view);
  if (b.view.size() > 0) {
    const bool is_run = b.view.outer == 1 || b.view.channels == 1;
    (is_run ? sum_runs : b.view.inner == 1 ? sum_columns : sum_gathered)(b, sums);
  }
  sums.add_up(scale_gradient);
}

void write_gradients(const FakeQuantizeGradients& gradients, const Tensor& input,
                     const Tensor& scale, const Tensor& zero_point, const ChannelView& view,
                     int64_t quant_min, int64_t quant_max) {
  const DefaultFloats floats;
  const Backward b = {gradients.output,          input,     gradients.input, view,
                      Params(scale, zero_point), quant_min, quant_max};
  gradients.with_scale ? write_both_gradients(b, gradients.scale) : write_input_gradient(b);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CPU, m) {
  m.impl("fake_quantize_per_tensor_backward", &fake_quantize_per_tensor_backward<write_gradients>);
  m.impl("fake_quantize_per_channel_backward",
         &fake_quantize_per_channel_backward<write_gradients>);
}

}  // namespace torchquant::ops
