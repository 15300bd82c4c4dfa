// The kernels behind the operators: raw pointers, one thread, one span of work, nothing allocated,
// no alignment assumed. A set is one struct of function pointers; select.cpp chooses it once.
#pragma once

#include <cstdint>

#include "../math/affine.h"

namespace torchquant::kernels {

// Element types by their bits: the float side and the integer side of an operator.
enum class Float { f32, f16, bf16 };
enum class Int { i8, u8, i16, i32 };

// The vector kernels compute q - zero_point in int32 and quant_min - zero_point in float32, exactly
// for zero points up to this magnitude. Beyond it callers take the scalar kernels.
inline constexpr int32_t kVectorZeroPoint = 1 << 23;

struct QuantizeParams {
  float inv_scale;
  int32_t zero_point;
  int32_t quant_min;
  int32_t quant_max;
};

// The parameters of channels that follow each other: one pair for each run or column. Pointers may
// be unaligned.
struct ChannelParams {
  const float* scale;
  const int32_t* zero_point;
  int32_t quant_min;
  int32_t quant_max;
};

// For what codes qparams are chosen, and how.
struct ChosenCodes {
  int32_t quant_min;
  int32_t quant_max;
  bool symmetric;
};

// Sums of floats go over blocks of at most kSumBlock values, in float64. Value i of a block goes to
// lane i % kSumLanes, lanes are added in index order: the same bits for any vector width.
inline constexpr int64_t kSumBlock = 4096;
inline constexpr int64_t kSumLanes = 16;

// NaN propagates, into max_error too.
struct ErrorSums {
  double max_error;
  double absolute;
  double squared;
  double signal;
};

enum class Output { i32, f32, f16, bf16, i8, u8 };

// What becomes of the int32 sums of a matmul, all of it modulo 2^32 until it is a float. With
// s = sum - row_zero_point[m] * weight_sum[n] + row_offset[m]: Output::i32 stores s; the floats
// store y = activation(float(s) * row_scale[m] * weight_scale[n] + bias[n]); i8 and u8 store y
// quantized with `requantize`. Null pointers leave their term out: row_zero_point, row_offset and
// bias. row_zero_point and row_scale advance by row_step, 0 or 1, from row to row.
struct Epilogue {
  const int32_t* row_zero_point;
  const float* row_scale;
  int64_t row_step;
  const int32_t* row_offset;
  const int32_t* weight_sum;
  const float* weight_scale;
  const float* bias;
  bool relu;
  Output type;
  QuantizeParams requantize;
};

// rows x columns outputs: activations of quads * kQuad values, laid out as MatmulKernels wants
// them, rows activation_stride bytes apart, against the panels [first_panel, last_panel) of a
// packed weight [ceil(columns / 16), quads, 16, 4]. `weight` is that of panel first_panel.
struct MatmulSpan {
  const void* activations;
  int64_t activation_stride;
  bool is_signed;
  int64_t rows;
  int64_t quads;
  const int8_t* weight;
  int64_t first_panel;
  int64_t last_panel;
  int64_t columns;
  Epilogue epilogue;
  void* out;
  int64_t out_stride;
};

// The same product with a weight as torch.nn.Linear holds it, `columns` rows of depth bytes: for so
// few rows that packing it would cost more than multiplying.
struct UnpackedSpan {
  const void* activations;
  int64_t activation_stride;
  bool is_signed;
  int64_t rows;
  int64_t depth;
  const void* weight;
  int64_t weight_stride;
  bool weight_is_signed;
  int64_t columns;
  int32_t* out;
  int64_t out_stride;
};

inline constexpr int64_t kPanel = 16;  // output features of one packed panel
inline constexpr int64_t kQuad = 4;    // input features that lie together in it
inline constexpr int64_t kPanelRow = kPanel * kQuad;

static inline int64_t quads_of(int64_t depth) { return (depth + kQuad - 1) / kQuad; }

// The codes of quantized activations: uint8, what vpdpbusd multiplies with a signed weight.
inline constexpr int32_t kTokenMin = 0;
inline constexpr int32_t kTokenMax = 255;

// In the kernels below `runs` are runs of n values each, one behind the other, with parameters or
// a result for each; `columns` are n values with parameters for each.

// The Range of n values; of runs, merged into `ranges`; of each column of a matrix whose rows lie
// `stride` values apart, merged into the arrays. choose gives the qparams of n ranges.
struct RangeKernels {
  Range (*span)(const void* x, Float type, int64_t n);
  void (*runs)(const void* x, Float type, int64_t runs, int64_t n, Range* ranges);
  void (*columns)(const void* x, Float type, int64_t rows, int64_t stride, int64_t columns,
                  float* min, float* max, uint32_t* absmax_bits);
  void (*choose)(const Range* ranges, int64_t n, const ChosenCodes& codes, float* scale,
                 int32_t* zero_point);
};

struct QuantizeKernels {
  void (*runs)(const void* x, Float from, void* q, Int to, int64_t runs, int64_t n,
               const ChannelParams& params);
  void (*columns)(const void* x, Float from, void* q, Int to, int64_t n,
                  const ChannelParams& params);
};
struct DequantizeKernels {
  void (*runs)(const void* q, Int from, void* x, Float to, int64_t runs, int64_t n,
               const float* scale, const int32_t* zero_point);
  void (*columns)(const void* q, Int from, void* x, Float to, int64_t n, const float* scale,
                  const int32_t* zero_point);
};

// Whole vectors of sums: what lies beyond the columns means nothing.
static inline int64_t padded_columns(int64_t columns) {
  return (columns + kSumLanes - 1) / kSumLanes * kSumLanes;
}

// What fake_quantize's backward reads and writes: the gradient of its output, its input, and the
// gradient of its input, all of one type.
struct Gradients {
  const void* output;
  const void* x;
  void* input;
  Float type;
};

// slope_block also returns the sum of gradient times slope of the scale (see affine.h) over a block
// of at most kSumBlock values; slope_columns adds these products for each column of a matrix whose
// rows lie `stride` values apart to the sums [kSumLanes][padded_columns(columns)], row i to lane
// i % kSumLanes.
struct FakeQuantizeKernels {
  void (*runs)(const void* x, Float type, void* y, int64_t runs, int64_t n,
               const ChannelParams& params);
  void (*columns)(const void* x, Float type, void* y, int64_t n, const ChannelParams& params);
  void (*backward_runs)(const Gradients& gradients, int64_t runs, int64_t n,
                        const ChannelParams& params);
  void (*backward_columns)(const Gradients& gradients, int64_t n, const ChannelParams& params);
  double (*slope_block)(const Gradients& gradients, int64_t n, const ChannelParams& params);
  void (*slope_columns)(const Gradients& gradients, int64_t rows, int64_t stride, int64_t columns,
                        const ChannelParams& params, double* sums);
};

// Over one block. The two sides may differ in type, but for float64.
struct ErrorKernels {
  ErrorSums (*floats)(const void* original, Float from, const void* approximation, Float to,
                      int64_t n);
  ErrorSums (*doubles)(const double* original, const double* approximation, int64_t n);
};

// What is seen of values beside their bins: of their magnitudes' bits, but for those of zero, the
// least, and the greatest; the minimum and maximum of the finite ones.
struct Observed {
  uint32_t least;
  uint32_t greatest;
  float min;
  float max;
};
inline constexpr Observed kNothingSeen = {UINT32_MAX, 0, INFINITY, -INFINITY};

// observe adds n values, fewer than 2^32 in all, to `tables`, kTables counters for each of the
// kBins bins (see range_histogram.h), and to `seen`; flush adds these counters to `counts`, and
// leaves them zero.
inline constexpr int64_t kTables = 4;
struct HistogramKernels {
  void (*observe)(const void* x, Float type, int64_t n, uint32_t* tables, Observed& seen);
  void (*flush)(uint32_t* tables, const Observed& seen, int64_t* counts);
};

// to[r, c] = from[c, r], elements of `size` bytes, 1, 2 or 4: rows of `to` and columns of `from`
// lie that many elements apart.
struct TransposeKernels {
  void (*tile)(const void* from, int64_t from_stride, void* to, int64_t to_stride, int64_t rows,
               int64_t columns, int64_t size);
};

// An activation is laid out as activation_bytes bytes. Where that is 1, rows of bytes whose count
// is a multiple of kQuad are multiplied where they lie; otherwise, and always where it is 2, a row
// is first prepared: quads * kQuad values, zero padded. The product then sees int8 activations
// greater by signed_offset (128 where the instruction wants unsigned bytes), and uint8 ones as they
// are.
struct MatmulKernels {
  int64_t activation_bytes;
  int32_t signed_offset;
  // Products that keep a thread busy for some 2 us: handing work to it costs about 1.
  int64_t products_per_thread;
  void (*prepare_row)(const void* row, bool is_signed, int64_t k, void* prepared);
  // A row of k floats as codes of [kTokenMin, kTokenMax], prepared: with given params; with the
  // row's own affine ones.
  void (*quantize_row)(const void* x, Float type, int64_t k, QuantizeParams params, void* prepared);
  QParams (*quantize_token)(const void* x, Float type, int64_t k, void* prepared);
  void (*multiply)(const MatmulSpan& span);
  // For at most unpacked_rows rows; null, with 0 rows, where packing is as fast.
  int64_t unpacked_rows;
  void (*multiply_unpacked)(const UnpackedSpan& span);
};

// A packed weight is [ceil(N / kPanel), ceil(K / kQuad), kPanel, kQuad], zero padded; a panel is
// one of its first dimension. pack takes `columns` columns of k bytes at any strides, adds `flip`
// to each (0, or 128 modulo 256 to make uint8 signed) and fills ceil(columns / kPanel) panels; at
// most kPackColumns columns, a cache line of them. sum adds up each of the kPanel columns of a
// panel. unpack writes the columns of a panel back, k bytes each.
inline constexpr int64_t kPackColumns = 64;
struct PackKernels {
  void (*pack)(const int8_t* weight, int64_t column_stride, int64_t k_stride, int64_t columns,
               int64_t k, uint8_t flip, int8_t* panels);
  void (*sum)(const int8_t* panel, int64_t quads, int32_t* sums);
  void (*unpack)(const int8_t* panel, int64_t columns, int64_t k, int8_t* weight);
};

// n codes of `bits` bits each, little-endian, from bit 0 of the first byte; spare bits are zero.
// pack returns whether all codes fit; where they do not, what it wrote means nothing.
struct BitsKernels {
  bool (*pack)(const void* codes, bool is_signed, int64_t n, int bits, void* packed);
  void (*unpack)(const void* packed, bool is_signed, int64_t n, int bits, void* codes);
};

// A set, named as in TORCHQUANT_KERNELS.
struct Kernels {
  const char* name;
  const RangeKernels& range;
  const QuantizeKernels& quantize;
  const DequantizeKernels& dequantize;
  const FakeQuantizeKernels& fake_quantize;
  const ErrorKernels& error;
  const HistogramKernels& histogram;
  const MatmulKernels& matmul;
  const PackKernels& pack;
  const BitsKernels& bits;
  const TransposeKernels& transpose;
};

// The best set that this processor and its operating system support, or the one that
// TORCHQUANT_KERNELS names. Throws std::runtime_error where that name is unknown or unsupported.
const Kernels& active();

// The set that handles every argument (see kVectorZeroPoint).
const Kernels& scalar();

// The sets that run here, best first, ended by a null pointer.
const Kernels* const* supported();

// <subject>_<isa>.cpp defines <subject>_<isa>, and nothing else with external linkage.
extern const RangeKernels range_scalar, range_avx2, range_avx512;
extern const QuantizeKernels quantize_scalar, quantize_avx2, quantize_avx512;
extern const DequantizeKernels dequantize_scalar, dequantize_avx2, dequantize_avx512;
extern const FakeQuantizeKernels fake_quantize_scalar, fake_quantize_avx2, fake_quantize_avx512;
extern const ErrorKernels error_scalar, error_avx2, error_avx512;
extern const HistogramKernels histogram_scalar, histogram_avx2, histogram_avx512;
extern const MatmulKernels matmul_scalar, matmul_avx2, matmul_avxvnni, matmul_avx512vnni;
extern const PackKernels pack_scalar, pack_avx2, pack_avx512;
extern const BitsKernels bits_scalar, bits_avx2;
extern const TransposeKernels transpose_scalar, transpose_avx2;

}  // namespace torchquant::kernels
