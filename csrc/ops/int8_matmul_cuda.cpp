#include <ATen/ops/_int_mm.h>
#include <torch/library.h>

#include "cuda_product.h"
#include "outputs.h"

namespace torchquant::ops {
namespace {

bool is_shifted(const Tensor& matrix) { return matrix.scalar_type() == at::kByte; }

// (a + 128)(b + 128) = ab + 128 a + 128 b + 128 * 128, summed over the depth.
cuda::SumsEpilogue epilogue_of(const Tensor& row_sum, const Tensor& weight_sum, int64_t depth) {
  cuda::SumsEpilogue e = {};
  if (weight_sum.defined()) {
    e.weight_sum = weight_sum.const_data_ptr<int32_t>();
    e.shift = kShift;
  }
  if (row_sum.defined()) {
    e.row_sum = row_sum.const_data_ptr<int32_t>();
    e.row_factor = kShift;
  }
  if (weight_sum.defined() && row_sum.defined()) {
    e.constant = static_cast<int32_t>(kShift * kShift * depth);
  }
  return e;
}

// out [M, N] = a [M, K] x b [K, N].
void multiply(cuda::Queue queue, const Tensor& a, const Tensor& b, const Tensor& out) {
  const Tensor left = operand(queue, a, padded_rows(a.size(0)));
  const Tensor right = operand(queue, b.t(), padded_16(b.size(1)));
  const bool is_all = left.size(0) == out.size(0) && right.size(0) == out.size(1);
  if (is_all && !is_shifted(a) && !is_shifted(b)) {
    Tensor result = out;
    at::_int_mm_out(result, left, right.t());
    return;
  }
  const Tensor sums = at::_int_mm(left, right.t());
  const Tensor row_sum = is_shifted(b) ? row_sums(queue, left) : Tensor();
  const Tensor weight_sum = is_shifted(a) ? row_sums(queue, right) : Tensor();
  cuda::finish_sums(queue, sums.const_data_ptr<int32_t>(), sums.size(1), out.size(0), out.size(1),
                    epilogue_of(row_sum, weight_sum, a.size(1)), kernels::Output::i32,
                    out.mutable_data_ptr());
}

Tensor int8_matmul_cuda(const Tensor& a, const Tensor& b) {
  check_int8_matmul(a, b);
  const Tensor out = new_product(a, b);
  if (out.numel() == 0) return out;
  on_device_of(a, [&](cuda::Queue queue) {
    if (a.dim() == 2) return multiply(queue, a, b, out);
    const int64_t batch = out.numel() / (out.size(-2) * out.size(-1));
    const Tensor lefts = a.reshape({batch, a.size(-2), a.size(-1)});
    const Tensor rights = b.reshape({batch, b.size(-2), b.size(-1)});
    const Tensor results = out.view({batch, out.size(-2), out.size(-1)});
    for (int64_t i = 0; i < batch; ++i) multiply(queue, lefts[i], rights[i], results[i]);
  });
  return out;
}

// Of each output feature, where nobody kept them.
Tensor packed_sums(cuda::Queue queue, const Tensor& packed, int64_t out_features,
                   int64_t in_features) {
  return row_sums(queue, operand_of_packed(queue, packed, out_features, in_features));
}

Tensor int8_matmul_packed_cuda(const Tensor& a, const Tensor& packed_weight, int64_t out_features,
                               const std::optional<Tensor>& weight_sum) {
  check_int8_matmul_packed(a, packed_weight, out_features, weight_sum);
  const Tensor out = new_rows(a, out_features, at::kInt);
  if (out.numel() == 0) return out;
  on_device_of(a, [&](cuda::Queue queue) {
    const int64_t rows = out.numel() / out_features, depth = a.size(-1);
    const Tensor left = operand(queue, a.reshape({rows, depth}), activation_rows(queue, rows));
    Tensor sums;
    if (is_shifted(a)) {
      sums =
          weight_sum ? dense(*weight_sum) : packed_sums(queue, packed_weight, out_features, depth);
    }
    multiply_packed(queue, left, packed_weight, depth, epilogue_of(Tensor(), sums, depth), out);
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CUDA, m) {
  m.impl("int8_matmul", &int8_matmul_cuda);
  m.impl("int8_matmul_packed", &int8_matmul_packed_cuda);
}

}  // namespace torchquant::ops
