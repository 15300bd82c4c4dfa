// One int8 matrix product, from rows of activations to finished outputs: what linear_dynamic,
// linear_static and the matmuls have in common. gemm.cpp cuts it into work for threads.
#pragma once

#include <optional>

#include "check.h"
#include "panels.h"

namespace torchquant::ops {

// Rows of bytes, taken as they are, or of floats, quantized to uint8 on the way: with `params`, or
// where there are none each row with affine ones of its own, which are then the epilogue's.
struct Activations {
  const void* data;
  int64_t row_bytes;  // from one row to the next; a row itself is dense
  ScalarType dtype;
  std::optional<kernels::QuantizeParams> params;

  bool are_bytes() const { return is_byte(dtype); }
  bool are_signed() const { return dtype == at::kChar; }
  bool have_own_params() const { return !are_bytes() && !params; }
  // An empty tensor has no data, and to a null pointer nothing may be added.
  const void* row(int64_t m) const {
    return data == nullptr ? data : static_cast<const char*>(data) + m * row_bytes;
  }
};

// A weight to be packed, and room for the sums of its columns, kPanel for each panel.
struct PlainWeight {
  WeightSource source;
  int32_t* sums;
};

// rows x columns outputs of `depth` products each. The weight is packed, or `plain` and packed on
// the way; then run() fills in its sums, where the epilogue takes them away, and gives back to each
// row what flipping the weight took away.
struct Gemm {
  const kernels::MatmulKernels& kernel;
  int64_t rows;
  int64_t depth;
  int64_t columns;
  Activations activations;
  const int8_t* packed;
  const PlainWeight* plain;
  kernels::Epilogue epilogue;
  void* out;
  int64_t out_element_size;
};

void run(const Gemm& gemm);

}  // namespace torchquant::ops
