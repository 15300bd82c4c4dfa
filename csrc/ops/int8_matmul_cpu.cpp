#include <torch/library.h>

#include "gemm.h"
#include "outputs.h"

namespace torchquant::ops {
namespace {

// Rows of bytes. The stride of a single row says nothing.
Activations byte_rows(const Tensor& a) {
  return {a.const_data_ptr(), a.size(0) > 1 ? a.stride(0) : a.size(1), a.scalar_type(), {}};
}

// a itself where its rows are dense.
Tensor with_dense_rows(const Tensor& a) {
  const bool dense = a.stride(-1) == 1 || a.size(-1) == 1;
  return dense ? a : a.contiguous();
}

// Whether the kernel sees activations greater than they are, which weight sums then make up for.
bool is_shifted(const Tensor& a) {
  return a.scalar_type() == at::kChar && kernels::active().matmul.signed_offset != 0;
}

// out[rows, columns] = a x weight, packed or plain.
void multiply(const Tensor& a, const int8_t* packed, const PlainWeight* plain,
              const int32_t* weight_sum, int64_t columns, int32_t* out) {
  const auto& kernel = kernels::active().matmul;
  kernels::Epilogue epilogue = {};
  epilogue.type = kernels::Output::i32;
  epilogue.weight_sum = weight_sum;
  if (is_shifted(a)) epilogue.row_zero_point = &kernel.signed_offset;
  run({kernel, a.size(0), a.size(1), columns, byte_rows(a), packed, plain, epilogue, out,
       sizeof(int32_t)});
}

// A few rows by a weight whose columns are dense: each column is read where it lies.
void multiply_unpacked(const Tensor& a, const Tensor& b, int32_t* out) {
  const auto& kernel = kernels::active().matmul;
  const Activations rows = byte_rows(a);
  const int64_t depth = b.size(0), columns = b.size(1);
  const int64_t stride = columns > 1 ? b.stride(1) : depth;
  const int64_t column_products = std::max<int64_t>(1, a.size(0) * depth);
  parallel_for(0, columns, at::divup(kernel.products_per_thread, column_products),
               [&](int64_t begin, int64_t end) {
                 kernel.multiply_unpacked(
                     {rows.data, rows.row_bytes, rows.are_signed(), a.size(0), depth,
                      static_cast<const char*>(b.const_data_ptr()) + begin * stride, stride,
                      b.scalar_type() == at::kChar, end - begin, out + begin, columns});
               });
}

// One pair of matrices of a batch, b at any strides.
void multiply_plain(const Tensor& a, const Tensor& b, int32_t* out) {
  const bool dense_columns = b.stride(0) == 1 || b.size(0) == 1;
  if (a.size(0) <= kernels::active().matmul.unpacked_rows && dense_columns) {
    return multiply_unpacked(a, b, out);
  }
  const uint8_t flip = b.scalar_type() == at::kByte ? kFlip : 0;
  std::vector<int32_t> sums(is_shifted(a) ? panel_count(b.size(1)) * kernels::kPanel : 0);
  const PlainWeight weight = {
      {b.const_data_ptr(), b.stride(1), b.stride(0), b.size(1), b.size(0), flip}, sums.data()};
  multiply(a, nullptr, &weight, sums.data(), b.size(1), out);
}

Tensor int8_matmul_cpu(const Tensor& a, const Tensor& b) {
  check_int8_matmul(a, b);
  const Tensor out = new_product(a, b);
  if (out.numel() == 0) return out;
  if (a.dim() == 2) {
    multiply_plain(with_dense_rows(a), b, out.mutable_data_ptr<int32_t>());
    return out;
  }
  const int64_t batch = out.numel() / (out.size(-2) * out.size(-1));
  const Tensor lefts = with_dense_rows(a.reshape({batch, a.size(-2), a.size(-1)}));
  const Tensor rights = b.reshape({batch, b.size(-2), b.size(-1)});
  auto* results = out.mutable_data_ptr<int32_t>();
  // A batch is shared out matrix by matrix where there are enough; nested regions run serially.
  const int64_t grain = batch >= at::get_num_threads() ? 1 : batch;
  parallel_for(0, batch, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      multiply_plain(lefts[i], rights[i], results + i * out.size(-2) * out.size(-1));
    }
  });
  return out;
}

// The sums of a packed weight's rows, for callers that did not keep them: as many as the panels
// have columns.
std::vector<int32_t> sum_packed(const Tensor& packed, int64_t out_features, int64_t in_features) {
  std::vector<int32_t> sums(panel_count(out_features) * kernels::kPanel);
  const auto* panels = packed.const_data_ptr<int8_t>();
  for_panels(out_features, in_features, [&](int64_t begin, int64_t end) {
    sum_panels(panels + begin * panel_size(in_features), in_features, begin, end,
               sums.data() + begin * kernels::kPanel);
  });
  return sums;
}

Tensor int8_matmul_packed_cpu(const Tensor& a, const Tensor& packed_weight, int64_t out_features,
                              const std::optional<Tensor>& weight_sum) {
  check_int8_matmul_packed(a, packed_weight, out_features, weight_sum);
  const Tensor out = new_rows(a, out_features, at::kInt);
  if (out.numel() == 0) return out;
  const int64_t depth = a.size(-1);
  const Tensor rows = with_dense_rows(a.reshape({out.numel() / out_features, depth}));
  const Tensor weight = packed_weight.contiguous();
  const Tensor given = weight_sum ? weight_sum->contiguous() : Tensor();
  const std::vector<int32_t> own = is_shifted(a) && !weight_sum
                                       ? sum_packed(weight, out_features, depth)
                                       : std::vector<int32_t>();
  multiply(rows, weight.const_data_ptr<int8_t>(), nullptr,
           weight_sum ? given.const_data_ptr<int32_t>() : own.data(), out_features,
           out.mutable_data_ptr<int32_t>());
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CPU, m) {
  m.impl("int8_matmul", &int8_matmul_cpu);
  m.impl("int8_matmul_packed", &int8_matmul_packed_cpu);
}

}  // namespace torchquant::ops
