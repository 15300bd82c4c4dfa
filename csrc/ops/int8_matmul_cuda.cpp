#include <ATen/ops/_int_mm.h>
#include <torch/library.h>

#include "cuda_product.h"
#include "outputs.h"

namespace torchquant::ops {
namespace {

constexpr int32_t kShift = 128;  // uint8 operands are less by so much

bool is_shifted(const Tensor& matrix) { return matrix.scalar_type() == at::kByte; }

// (a + 128)(b + 128) = ab + 128 a + 128 b + 128 * 128, summed over the depth.
void finish_product(cuda::Queue queue, const Tensor& sums, const Tensor& row_sum,
                    const Tensor& weight_sum, int64_t depth, const Tensor& out) {
  cuda::SumsEpilogue epilogue = {};
  if (weight_sum.defined()) {
    epilogue.weight_sum = weight_sum.const_data_ptr<int32_t>();
    epilogue.shift = kShift;
  }
  if (row_sum.defined()) {
    epilogue.row_sum = row_sum.const_data_ptr<int32_t>();
    epilogue.row_factor = kShift;
  }
  if (weight_sum.defined() && row_sum.defined()) {
    epilogue.constant = static_cast<int32_t>(kShift * kShift * depth);
  }
  cuda::finish_sums(queue, sums.const_data_ptr<int32_t>(), sums.size(1), out.size(0), out.size(1),
                    epilogue, kernels::Output::i32, out.mutable_data_ptr());
}

// out [M, N] = a [M, K] x b [K, N].
void multiply(cuda::Queue queue, const Tensor& a, const Tensor& b, const Tensor& out) {
  const Tensor left = left_operand(queue, a), right = right_operand(queue, b);
  const bool is_all = left.size(0) == out.size(0) && right.size(0) == out.size(1);
  if (is_all && !is_shifted(a) && !is_shifted(b)) {
    Tensor result = out;
    at::_int_mm_out(result, left, right.t());
    return;
  }
  finish_product(queue, product(left, right), is_shifted(b) ? row_sums(queue, left) : Tensor(),
                 is_shifted(a) ? row_sums(queue, right) : Tensor(), a.size(1), out);
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

Tensor int8_matmul_packed_cuda(const Tensor& a, const Tensor& packed_weight, int64_t out_features,
                               const std::optional<Tensor>& weight_sum) {
  check_int8_matmul_packed(a, packed_weight, out_features, weight_sum);
  const Tensor out = new_rows(a, out_features, at::kInt);
  if (out.numel() == 0) return out;
  on_device_of(a, [&](cuda::Queue queue) {
    const int64_t rows = out.numel() / out_features, depth = a.size(-1);
    const Tensor left = left_operand(queue, a.reshape({rows, depth}));
    const Tensor right = right_operand(queue, packed_weight, out_features, depth);
    Tensor sums_of_weight;
    if (is_shifted(a)) sums_of_weight = weight_sum ? dense(*weight_sum) : row_sums(queue, right);
    finish_product(queue, product(left, right), Tensor(), sums_of_weight, depth,
                   out.view({rows, out_features}));
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CUDA, m) {
  m.impl("int8_matmul", &int8_matmul_cuda);
  m.impl("int8_matmul_packed", &int8_matmul_packed_cuda);
}

}  // namespace torchquant::ops
