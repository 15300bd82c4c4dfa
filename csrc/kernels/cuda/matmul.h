// What surrounds an int8 product on the tensor cores: operands brought into the rows that it reads,
// the sums of these rows, and what becomes of its int32 sums.
#pragma once

#include "memory.h"

namespace torchquant::kernels::cuda {
namespace {

constexpr int kChunk = 16;  // bytes of a row that a thread brings
using Chunk = Vector<int8_t, kChunk>;

// Chunks of a dense matrix whose columns are a multiple of kChunk.
struct Chunks {
  int64_t rows;
  int64_t columns;
  bool rows_first;  // whether neighbouring threads have neighbouring rows

  TORCHQUANT_HOST_DEVICE int64_t count() const { return rows * (columns / kChunk); }
  TORCHQUANT_HOST_DEVICE int64_t row(int64_t item) const {
    return rows_first ? item % rows : item / (columns / kChunk);
  }
  TORCHQUANT_HOST_DEVICE int64_t column(int64_t item) const {
    return (rows_first ? item / rows : item % (columns / kChunk)) * kChunk;
  }
};

struct PadBytes {
  ByteMatrix from;
  uint8_t flip;  // 128 takes 128 away
  Chunks chunks;
  bool has_vectors;  // whether every chunk may be read at once
  int8_t* to;

  TORCHQUANT_HOST_DEVICE int64_t items() const { return chunks.count(); }

  TORCHQUANT_HOST_DEVICE void operator()(int64_t item) const {
    const int64_t row = chunks.row(item), column = chunks.column(item);
    Chunk chunk = {};
    if (row < from.rows && column < from.columns) {
      const auto* bytes = static_cast<const uint8_t*>(from.data) + row * from.row_stride;
      has_vectors ? take_vector(bytes + column, chunk) : take_singly(bytes, column, chunk);
    }
    store_vector(to + row * chunks.columns + column, chunk);
  }

 private:
  TORCHQUANT_HOST_DEVICE void take_vector(const uint8_t* bytes, Chunk& chunk) const {
    const auto vector = load_vector<uint8_t, kChunk>(bytes);
    TORCHQUANT_UNROLL
    for (int i = 0; i < kChunk; ++i) chunk.values[i] = static_cast<int8_t>(vector.values[i] ^ flip);
  }

  TORCHQUANT_HOST_DEVICE void take_singly(const uint8_t* row, int64_t column, Chunk& chunk) const {
    TORCHQUANT_UNROLL
    for (int i = 0; i < kChunk; ++i) {
      if (column + i >= from.columns) break;
      chunk.values[i] = static_cast<int8_t>(row[(column + i) * from.column_stride] ^ flip);
    }
  }
};

// The work with its vectors, as the addresses allow.
inline PadBytes padding(const ByteMatrix& from, bool flip, int64_t padded_rows,
                        int64_t padded_columns, int8_t* to) {
  const bool has_vectors = from.column_stride == 1 && from.columns % kChunk == 0 &&
                           from.row_stride % kChunk == 0 &&
                           is_aligned<int8_t, kChunk>(static_cast<const int8_t*>(from.data));
  const Chunks chunks = {padded_rows, padded_columns, from.column_stride != 1};
  return {from, static_cast<uint8_t>(flip ? 128 : 0), chunks, has_vectors, to};
}

// The quad, four inputs of one output, that holds weight[row, column] and those behind it.
TORCHQUANT_HOST_DEVICE inline int64_t quad_at(int64_t row, int64_t column, int64_t quads) {
  return ((row / kPanel * quads + column / kQuad) * kPanel + row % kPanel) * kQuad;
}

struct UnpackWeight {
  const int8_t* packed;
  int64_t rows;
  int64_t columns;
  Chunks chunks;
  int8_t* weight;

  TORCHQUANT_HOST_DEVICE int64_t items() const { return chunks.count(); }

  TORCHQUANT_HOST_DEVICE void operator()(int64_t item) const {
    const int64_t row = chunks.row(item), column = chunks.column(item);
    const int64_t quads = divide_up(columns, kQuad);
    Chunk chunk = {};
    TORCHQUANT_UNROLL
    for (int q = 0; q < kChunk / kQuad; ++q) {
      if (row >= rows || column + q * kQuad >= columns) break;
      const auto quad =
          load_vector<int8_t, kQuad>(packed + quad_at(row, column + q * kQuad, quads));
      TORCHQUANT_UNROLL
      for (int i = 0; i < kQuad; ++i) chunk.values[q * kQuad + i] = quad.values[i];
    }
    store_vector(weight + row * chunks.columns + column, chunk);
  }
};

// The weight itself, of any size: a thread has one quad of it.
struct UnpackQuads {
  const int8_t* packed;
  int64_t rows;
  int64_t columns;
  int8_t* weight;

  TORCHQUANT_HOST_DEVICE int64_t items() const { return rows * divide_up(columns, kQuad); }

  TORCHQUANT_HOST_DEVICE void operator()(int64_t item) const {
    const int64_t quads = divide_up(columns, kQuad);
    const int64_t row = item / quads, column = (item - row * quads) * kQuad;
    const auto quad = load_vector<int8_t, kQuad>(packed + quad_at(row, column, quads));
    for (int i = 0; i < smaller(kQuad, columns - column); ++i) {
      weight[row * columns + column + i] = quad.values[i];
    }
  }
};

// A thread has one quad of the packed weight.
struct PackQuads {
  ByteMatrix weight;
  int8_t* packed;

  TORCHQUANT_HOST_DEVICE int64_t items() const {
    return divide_up(weight.rows, kPanel) * kPanel * divide_up(weight.columns, kQuad);
  }

  TORCHQUANT_HOST_DEVICE void operator()(int64_t item) const {
    const int64_t quads = divide_up(weight.columns, kQuad);
    const int64_t panel_row = item / kPanel;
    const int64_t row = panel_row / quads * kPanel + item % kPanel;
    const int64_t column = panel_row % quads * kQuad;
    const auto* from = static_cast<const int8_t*>(weight.data) + row * weight.row_stride;
    Vector<int8_t, kQuad> quad = {};
    for (int i = 0; i < kQuad; ++i) {
      if (row >= weight.rows || column + i >= weight.columns) break;
      quad.values[i] = from[(column + i) * weight.column_stride];
    }
    store_vector(packed + item * kQuad, quad);
  }
};

struct AddSums {
  TORCHQUANT_HOST_DEVICE int32_t operator()(int32_t a, int32_t b) const { return a + b; }
};

struct KeepSum {
  int32_t* sums;

  TORCHQUANT_HOST_DEVICE void operator()(int64_t row, Share lane, int32_t sum) const {
    if (lane.first == 0) sums[row] = sum;
  }
};

// A team of threads for each row.
struct RowSums {
  const int8_t* matrix;
  int64_t rows;
  int64_t columns;

  using Value = int32_t;
  using Merge = AddSums;
  TORCHQUANT_HOST_DEVICE static int32_t nothing() { return 0; }

  TORCHQUANT_HOST_DEVICE int64_t teams() const { return rows; }

  TORCHQUANT_HOST_DEVICE int32_t see(int64_t row, Share lane) const {
    Add add;
    for_each_value(matrix + row * columns, columns, lane, add);
    return add.sum;
  }

 private:
  struct Add {
    int32_t sum = 0;
    TORCHQUANT_HOST_DEVICE void operator()(int8_t value) { sum += value; }
  };
};

TORCHQUANT_HOST_DEVICE inline int32_t add_wrapping(int32_t a, int32_t b) {
  return subtract_product(a, -1, b);
}

constexpr int kFour = 4;  // sums that a thread finishes at once, of neighbouring columns
using Four = Vector<int32_t, kFour>;

// What becomes of sums, four at a time. What belongs to columns is loaded once for many rows.
template <class Out>
struct FinishFour {
  struct Columns {
    int32_t weight_sum[kFour];
    float weight_scale[kFour];
    float bias[kFour];
  };
  struct Row {
    int32_t zero_point;
    int32_t offset;
    float scale;
  };

  SumsEpilogue e;
  int64_t columns;
  Out* out;
  bool has_vectors;  // whether four outputs may be written at once

  // Of column n and those behind it, as far as there are.
  TORCHQUANT_HOST_DEVICE Columns load_columns(int64_t n) const {
    Columns some = {};
    TORCHQUANT_UNROLL
    for (int i = 0; i < kFour; ++i) {
      if (n + i >= columns) break;
      if (e.weight_sum != nullptr) some.weight_sum[i] = e.weight_sum[n + i];
      if (e.weight_scale != nullptr) some.weight_scale[i] = e.weight_scale[n + i];
      if (e.bias != nullptr) some.bias[i] = e.bias[n + i];
    }
    return some;
  }

  TORCHQUANT_HOST_DEVICE Row load_row(int64_t m) const {
    const int32_t zero = e.row_zero_point == nullptr ? 0 : e.row_zero_point[m * e.row_step];
    const int32_t sum = e.row_sum == nullptr ? 0 : e.row_sum[m];
    return {add_wrapping(zero, -e.shift), subtract_product(e.constant, -e.row_factor, sum),
            e.row_scale == nullptr ? 0 : e.row_scale[m * e.row_step]};
  }

  // The sums of row m from column n on; those beyond the columns are left out.
  TORCHQUANT_HOST_DEVICE void write(const Four& sums, const Row& row, const Columns& some,
                                    int64_t m, int64_t n) const {
    Out* to = out + m * columns + n;
    Vector<Out, kFour> results;
    TORCHQUANT_UNROLL
    for (int i = 0; i < kFour; ++i) finish(sums.values[i], row, some, i, results.values[i]);
    if (has_vectors) return store_vector(to, results);
    TORCHQUANT_UNROLL
    for (int i = 0; i < kFour; ++i) {
      if (n + i < columns) to[i] = results.values[i];
    }
  }

 private:
  TORCHQUANT_HOST_DEVICE int32_t whole(int32_t sum, const Row& row, const Columns& some,
                                       int i) const {
    if (e.weight_sum != nullptr) {
      sum = subtract_product(sum, row.zero_point, some.weight_sum[i]);
    }
    return add_wrapping(sum, row.offset);
  }

  TORCHQUANT_HOST_DEVICE float real(int32_t sum, const Row& row, const Columns& some, int i) const {
    float y = rescale_value(whole(sum, row, some, i), row.scale, some.weight_scale[i]);
    if (e.bias != nullptr) y = y + some.bias[i];
    return e.relu && y < 0 ? 0 : y;  // NaN stays
  }

  template <class Float>
  TORCHQUANT_HOST_DEVICE void finish(int32_t sum, const Row& row, const Columns& some, int i,
                                     Float& out) const {
    out = from_float<Float>(real(sum, row, some, i));
  }
  TORCHQUANT_HOST_DEVICE void finish(int32_t sum, const Row& row, const Columns& some, int i,
                                     int32_t& out) const {
    out = whole(sum, row, some, i);
  }
  TORCHQUANT_HOST_DEVICE void finish(int32_t sum, const Row& row, const Columns& some, int i,
                                     int8_t& out) const {
    out = static_cast<int8_t>(requantize(real(sum, row, some, i), -128, 127));
  }
  TORCHQUANT_HOST_DEVICE void finish(int32_t sum, const Row& row, const Columns& some, int i,
                                     uint8_t& out) const {
    out = static_cast<uint8_t>(requantize(real(sum, row, some, i), 0, 255));
  }

  TORCHQUANT_HOST_DEVICE int32_t requantize(float y, int32_t low, int32_t high) const {
    return quantize_value(y, 1.0f / e.output_scale[0], e.output_zero_point[0], low, high);
  }
};

// A thread has four sums of a row.
template <class Out>
struct FinishSums {
  const int32_t* sums;
  int64_t stride;
  int64_t rows;
  FinishFour<Out> four;
  bool has_vectors;  // whether four sums may be read at once

  TORCHQUANT_HOST_DEVICE int64_t items() const { return rows * divide_up(four.columns, kFour); }

  TORCHQUANT_HOST_DEVICE void operator()(int64_t item) const {
    const int64_t pieces = divide_up(four.columns, kFour);
    const int64_t m = item / pieces, n = (item - m * pieces) * kFour;
    four.write(read(sums + m * stride + n, four.columns - n), four.load_row(m),
               four.load_columns(n), m, n);
  }

 private:
  TORCHQUANT_HOST_DEVICE Four read(const int32_t* from, int64_t count) const {
    if (has_vectors && count >= kFour) return load_vector<int32_t, kFour>(from);
    Four some = {};
    for (int i = 0; i < smaller(kFour, count); ++i) some.values[i] = from[i];
    return some;
  }
};

// Four outputs may be written at once where every multiple of four columns is aligned.
template <class Out>
inline FinishFour<Out> finish_four(const SumsEpilogue& epilogue, int64_t columns, void* out) {
  auto* to = static_cast<Out*>(out);
  return {epilogue, columns, to, columns % kFour == 0 && is_aligned<Out, kFour>(to)};
}

// The work with its vectors, as the addresses allow.
template <class Out>
FinishSums<Out> finishing(const int32_t* sums, int64_t stride, int64_t rows, int64_t columns,
                          const SumsEpilogue& epilogue, Out* out) {
  const bool has_vectors = stride % kFour == 0 && is_aligned<int32_t, kFour>(sums);
  return {sums, stride, rows, finish_four<Out>(epilogue, columns, out), has_vectors};
}

// Calls f(T()) with the type of the outputs.
template <class F>
inline auto with_type(Output type, F f) {
  switch (type) {
    case Output::i32:
      return f(int32_t());
    case Output::f32:
      return f(float());
    case Output::f16:
      return f(Half());
    case Output::bf16:
      return f(BFloat16());
    case Output::i8:
      return f(int8_t());
    case Output::u8:
      break;
  }
  return f(uint8_t());
}

}  // namespace
}  // namespace torchquant::kernels::cuda
