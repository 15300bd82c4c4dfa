// The CUDA kernels: raw pointers to memory of the current device, no ATen, enqueued on a stream
// and not waited for. Pointers are aligned to their element type. <subject>.cu launches what
// <subject>.h says a thread does; the latter is plain C++, so that tests run it on the host.
#pragma once

#include "../kernels.h"
#include "divider.h"

// As cuda_runtime_api.h declares them, so that tests need no CUDA to include this.
struct CUstream_st;

namespace torchquant::kernels::cuda {

// What every launch needs.
struct Queue {
  CUstream_st* stream;
  int multiprocessors;
  int capability;  // 90 for 9.0
};

// Elements in their order: rows of `row` that begin `stride` elements apart, or one where the two
// are equal.
struct Elements {
  const void* data;
  int64_t row;
  int64_t stride;
};

// As ChannelView in ops/channels.h: rows of `row` elements hold runs_of_row runs of `inner`, the
// last of which may be shorter, and each run is of the channel after the one before; `outer` times
// `count` runs in all.
struct Channels {
  int64_t outer;
  Divider count;
  Divider inner;
  Divider row;
  int64_t runs_of_row;
};

// Elementwise, `size` elements; outputs are dense. Codes are stored less `shift`, 0 or 128.
void quantize(Queue queue, const Elements& x, Float from, void* q, Int to, int64_t size,
              const Channels& channels, const ChannelParams& params, int32_t shift);
void dequantize(Queue queue, const Elements& q, Int from, void* x, Float to, int64_t size,
                const Channels& channels, const float* scale, const int32_t* zero_point);
void fake_quantize(Queue queue, const Elements& x, Float type, void* y, int64_t size,
                   const Channels& channels, const ChannelParams& params);
void fake_quantize_backward(Queue queue, const void* gradient, const Elements& x, Float type,
                            void* input, int64_t size, const Channels& channels,
                            const ChannelParams& params);

// Ranges of the channels of dense elements. Long channels are read in `splits`, each of which has a
// range in `parts` [splits][channels]; where there is one, `parts` is not read.
int64_t range_splits(Queue queue, const Channels& channels);
void choose_qparams(Queue queue, const void* x, Float type, const Channels& channels,
                    int64_t splits, Range* parts, const ChosenCodes& codes, float* scale,
                    int32_t* zero_point);

// `rows` rows of `row` elements in groups of `group` (the last of a row may be shorter), of x whose
// own rows hold whole ones of these: each group chooses its parameters and is quantized. The rows
// of q are `q_stride` apart.
struct GroupedRows {
  Elements x;
  int64_t rows;
  int64_t row;
  int64_t group;
  int64_t groups_of_row;
};
void quantize_rows(Queue queue, const GroupedRows& rows, Float from, void* q, int64_t q_stride,
                   Int to, const ChosenCodes& codes, int32_t shift, float* scale,
                   int32_t* zero_point);

// Sums over blocks of kSumBlock elements of a channel, as the CPU adds them: lane by lane into
// `lanes` [blocks][kSumLanes][channels], the lanes of a block, the blocks.
int64_t sum_blocks(const Channels& channels);

// errors: max_error, mean_error, mse, snr_db of `size` values.
void quantization_error(Queue queue, const void* original, bool original_is_double, Float from,
                        const void* approximation, bool approximation_is_double, Float to,
                        int64_t size, ErrorSums* lanes, ErrorSums* blocks, double* errors);

// The gradients of the input, and of the scale [channels].
void fake_quantize_gradients(Queue queue, const Gradients& gradients, const Channels& channels,
                             const ChannelParams& params, double* lanes, double* blocks,
                             float* scale);

// `rows` of `row` codes each, a row of packed bytes begins behind the last. pack sets *beyond to 1
// where a code does not fit.
struct BitRows {
  int64_t rows;
  int64_t row;
  int bits;
  bool is_signed;
};
void pack_bits(Queue queue, const void* codes, const BitRows& rows, void* packed, int32_t* beyond);
void unpack_bits(Queue queue, const void* packed, const BitRows& rows, void* codes);

// Adds n values to counts [kBins], and to the range {min, max} by way of `seen`, one for each of
// histogram_blocks(n).
struct SeenRange {
  float min;
  float max;
};
int64_t histogram_blocks(Queue queue, int64_t n);
void histogram_observe(Queue queue, const void* x, Float type, int64_t n, int64_t* counts,
                       SeenRange* seen, float* range);

// Bytes at any strides, as a dense matrix [padded_rows, padded_columns] of int8 with zeros around
// it, of columns that are a multiple of 16; `flip` makes uint8 signed by taking 128 away.
struct ByteMatrix {
  const void* data;
  int64_t rows;
  int64_t columns;
  int64_t row_stride;
  int64_t column_stride;
};
void pad_bytes(Queue queue, const ByteMatrix& from, bool flip, int64_t padded_rows,
               int64_t padded_columns, int8_t* to);

// A packed weight [ceil(rows / 16), ceil(columns / 4), 16, 4], at a multiple of 4 bytes, from and
// to a matrix; to a dense one with zeros around it, as pad_bytes makes it.
void pack_weight(Queue queue, const ByteMatrix& weight, int8_t* packed);
void unpack_weight(Queue queue, const int8_t* packed, int64_t rows, int64_t columns,
                   int8_t* weight);
void unpack_padded(Queue queue, const int8_t* packed, int64_t rows, int64_t columns,
                   int64_t padded_rows, int64_t padded_columns, int8_t* weight);

// The sum of each row of a dense matrix.
void sum_rows(Queue queue, const int8_t* matrix, int64_t rows, int64_t columns, int32_t* sums);

// What becomes of int32 sums [rows, columns], whose rows are `stride` apart, all of it modulo 2^32
// until it is a float: s = sum - (row_zero_point[m] - shift) * weight_sum[n] + row_sum[m] *
// row_factor + constant. Null pointers leave their term out; row_zero_point and row_scale advance
// by row_step from row to row. Output::i32 stores s, the others y = activation(float(s) *
// row_scale[m] * weight_scale[n] + bias[n]), i8 and u8 quantized with output_scale[0] and
// output_zero_point[0].
struct SumsEpilogue {
  const int32_t* row_zero_point;
  const float* row_scale;
  int64_t row_step;
  int32_t shift;
  const int32_t* weight_sum;
  const int32_t* row_sum;
  int32_t row_factor;
  int32_t constant;
  const float* weight_scale;
  const float* bias;
  bool relu;
  const float* output_scale;
  const int32_t* output_zero_point;
};
void finish_sums(Queue queue, const int32_t* sums, int64_t stride, int64_t rows, int64_t columns,
                 const SumsEpilogue& epilogue, Output type, void* out);

// The sums of activations [rows, stride], of which stride is a multiple of 16, and a packed weight
// of `quads` quads, both at multiples of 16 bytes, finished on the way. For processors that have
// the instruction, from 8.0 on. Where the depth is split among blocks, which lets all of them take
// part in a small product, `parts` [rows, columns] has the sums in the meantime.
struct PackedProduct {
  const int8_t* activations;
  int64_t rows;
  int64_t stride;
  const int8_t* packed;
  int64_t columns;
  int64_t quads;
};
int64_t product_splits(Queue queue, const PackedProduct& product);
void multiply_packed(Queue queue, const PackedProduct& product, const SumsEpilogue& epilogue,
                     Output type, void* out, int64_t splits, int32_t* parts);

}  // namespace torchquant::kernels::cuda
