#include <torch/library.h>

#include "gemm.h"
#include "outputs.h"
#include "panels.h"

namespace torchquant::ops {
namespace {

constexpr uint8_t kFlip = 128;  // makes a uint8 weight int8: w = (w - 128) + 128

int32_t sum_row(const void* row, bool is_signed, int64_t depth) {
  int32_t sum = 0;
  for (int64_t i = 0; i < depth; ++i) {
    sum += is_signed ? static_cast<const int8_t*>(row)[i] : static_cast<const uint8_t*>(row)[i];
  }
  return sum;
}

// out[rows, columns] = a[rows, depth] x packed weight; where the weight was flipped, what the flip
// took away, 128 * sum(a), is given back to each row.
void multiply(const void* a, bool a_signed, int64_t rows, int64_t depth, const int8_t* weight,
              const int32_t* weight_sum, int64_t columns, bool weight_flipped, int32_t* out) {
  const auto& kernel = kernels::active().matmul;
  const bool shifted = a_signed && kernel.signed_offset != 0;
  const std::vector<int32_t> zero_point(shifted ? rows : 0, kernel.signed_offset);
  std::vector<int32_t> offset(weight_flipped ? rows : 0);
  const kernels::Epilogue epilogue = {shifted ? zero_point.data() : nullptr,
                                      weight_flipped ? offset.data() : nullptr,
                                      weight_sum,
                                      nullptr,
                                      nullptr,
                                      nullptr,
                                      false,
                                      kernels::Output::i32};
  run({rows, depth, columns, weight, epilogue, out, sizeof(int32_t)},
      [&](int64_t m, void* prepared) {
        const void* row = static_cast<const char*>(a) + m * depth;
        kernel.prepare_row(row, a_signed, depth, prepared);
        if (weight_flipped) offset[m] = kFlip * sum_row(row, a_signed, depth);
      });
}

// One pair of matrices of a batch, b at any strides: packed into panels, then multiplied.
void multiply_plain(const Tensor& a, const Tensor& b, int32_t* out) {
  const bool b_unsigned = b.scalar_type() == at::kByte;
  const WeightSource source = {b.const_data_ptr(), b.stride(1), b.stride(0),
                               b.size(1),          b.size(0),   b_unsigned ? kFlip : uint8_t{0}};
  const auto packed = std::make_unique_for_overwrite<int8_t[]>(packed_size(b.size(1), b.size(0)));
  std::vector<int32_t> sums(b.size(1));
  pack_panels(source, packed.get(), sums.data());
  multiply(a.const_data_ptr(), a.scalar_type() == at::kChar, a.size(0), a.size(1), packed.get(),
           sums.data(), b.size(1), b_unsigned, out);
}

Tensor int8_matmul_cpu(const Tensor& a, const Tensor& b) {
  check_int8_matmul(a, b);
  const Tensor out = new_product(a, b);
  if (out.numel() == 0) return out;
  const int64_t batch = out.numel() / (out.size(-2) * out.size(-1));
  const Tensor lefts = a.contiguous().view({batch, a.size(-2), a.size(-1)});
  const Tensor rights = b.reshape({batch, b.size(-2), b.size(-1)});
  auto* results = out.mutable_data_ptr<int32_t>();
  // A batch is shared out matrix by matrix where there are enough; nested regions run serially.
  const int64_t grain = batch >= at::get_num_threads() ? 1 : batch;
  at::parallel_for(0, batch, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      multiply_plain(lefts[i], rights[i], results + i * out.size(-2) * out.size(-1));
    }
  });
  return out;
}

// The sums of a packed weight's rows, for callers that did not keep them.
std::vector<int32_t> sum_packed(const Tensor& packed, int64_t out_features) {
  const Tensor sums = packed.sum({1, 3}, /*keepdim=*/false, at::kInt).contiguous();
  const auto* data = sums.const_data_ptr<int32_t>();
  return {data, data + out_features};
}

Tensor int8_matmul_packed_cpu(const Tensor& a, const Tensor& packed_weight, int64_t out_features,
                              const std::optional<Tensor>& weight_sum) {
  check_int8_matmul_packed(a, packed_weight, out_features, weight_sum);
  const Tensor out = new_rows(a, out_features, at::kInt);
  if (out.numel() == 0) return out;
  const Tensor rows = a.contiguous();
  const Tensor weight = packed_weight.contiguous();
  const Tensor given_sums = weight_sum ? weight_sum->contiguous() : Tensor();
  const std::vector<int32_t> own_sums =
      weight_sum ? std::vector<int32_t>() : sum_packed(weight, out_features);
  multiply(rows.const_data_ptr(), a.scalar_type() == at::kChar, out.numel() / out_features,
           a.size(-1), weight.const_data_ptr<int8_t>(),
           weight_sum ? given_sums.const_data_ptr<int32_t>() : own_sums.data(), out_features, false,
           out.mutable_data_ptr<int32_t>());
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CPU, m) {
  m.impl("int8_matmul", &int8_matmul_cpu);
  m.impl("int8_matmul_packed", &int8_matmul_packed_cpu);
}

}  // namespace torchquant::ops
