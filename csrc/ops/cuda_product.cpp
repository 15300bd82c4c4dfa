#include "cuda_product.h"

#include <ATen/ops/_int_mm.h>
#include <ATen/ops/empty.h>

#include <cstdlib>
#include <string_view>

namespace torchquant::ops {
namespace {

// Whether TORCHQUANT_CUDA_PRODUCT lets us take our own product.
bool may_use_tiles() {
  static const bool tiles = [] {
    const char* name = std::getenv("TORCHQUANT_CUDA_PRODUCT");
    const std::string_view asked = name == nullptr ? "tiles" : name;
    TORCH_CHECK(asked == "tiles" || asked == "int_mm",
                "TORCHQUANT_CUDA_PRODUCT must be \"tiles\" or \"int_mm\", but is \"", asked,
                "\": unset it for the faster of the two");
    return asked == "tiles";
  }();
  return tiles;
}

// The instruction came with compute capability 8.0.
bool uses_tiles(cuda::Queue queue) { return queue.capability >= 80 && may_use_tiles(); }

bool is_operand(const at::Tensor& matrix, int64_t rows, int64_t columns) {
  const auto address = reinterpret_cast<uintptr_t>(matrix.const_data_ptr());
  return matrix.scalar_type() == at::kChar && matrix.is_contiguous() && matrix.size(0) == rows &&
         matrix.size(1) == columns && address % 16 == 0;
}

void multiply_tiles(cuda::Queue queue, const at::Tensor& activations,
                    const at::Tensor& packed_weight, int64_t in_features,
                    const cuda::SumsEpilogue& epilogue, const at::Tensor& out) {
  const at::Tensor weight = aligned_to(16, packed_weight.contiguous());
  const int64_t rows = activations.size(0), columns = out.size(-1);
  const cuda::PackedProduct product = {
      activations.const_data_ptr<int8_t>(), rows,    activations.size(1),
      weight.const_data_ptr<int8_t>(),      columns, kernels::quads_of(in_features)};
  const int64_t splits = cuda::product_splits(queue, product);
  const at::Tensor parts =
      at::empty({splits > 1 ? rows * columns : 0}, out.options().dtype(at::kInt));
  cuda::multiply_packed(queue, product, epilogue, kernel_output(out.scalar_type()),
                        out.mutable_data_ptr(), splits, parts.mutable_data_ptr<int32_t>());
}

void multiply_unpacked(cuda::Queue queue, const at::Tensor& activations,
                       const at::Tensor& packed_weight, int64_t in_features,
                       const cuda::SumsEpilogue& epilogue, const at::Tensor& out) {
  const int64_t columns = out.size(-1);
  const at::Tensor weight = operand_of_packed(queue, packed_weight, columns, in_features);
  const at::Tensor sums = at::_int_mm(activations, weight.t());
  cuda::finish_sums(queue, sums.const_data_ptr<int32_t>(), sums.size(1), out.numel() / columns,
                    columns, epilogue, kernel_output(out.scalar_type()), out.mutable_data_ptr());
}

}  // namespace

int64_t activation_rows(cuda::Queue queue, int64_t rows) {
  return uses_tiles(queue) ? rows : padded_rows(rows);
}

at::Tensor operand(cuda::Queue queue, const at::Tensor& matrix, int64_t rows) {
  const int64_t columns = padded_16(matrix.size(1));
  if (is_operand(matrix, rows, columns)) return matrix;
  const at::Tensor padded = at::empty({rows, columns}, matrix.options().dtype(at::kChar));
  cuda::pad_bytes(
      queue,
      {matrix.const_data_ptr(), matrix.size(0), matrix.size(1), matrix.stride(0), matrix.stride(1)},
      matrix.scalar_type() == at::kByte, rows, columns, padded.mutable_data_ptr<int8_t>());
  return padded;
}

at::Tensor operand_of_packed(cuda::Queue queue, const at::Tensor& packed_weight,
                             int64_t out_features, int64_t in_features) {
  const at::Tensor packed = aligned_to(kernels::kQuad, packed_weight.contiguous());
  const int64_t rows = padded_16(out_features), columns = padded_16(in_features);
  const at::Tensor weight = at::empty({rows, columns}, packed.options());
  cuda::unpack_padded(queue, packed.const_data_ptr<int8_t>(), out_features, in_features, rows,
                      columns, weight.mutable_data_ptr<int8_t>());
  return weight;
}

at::Tensor row_sums(cuda::Queue queue, const at::Tensor& operand) {
  const at::Tensor sums = at::empty({operand.size(0)}, operand.options().dtype(at::kInt));
  cuda::sum_rows(queue, operand.const_data_ptr<int8_t>(), operand.size(0), operand.size(1),
                 sums.mutable_data_ptr<int32_t>());
  return sums;
}

void multiply_packed(cuda::Queue queue, const at::Tensor& activations,
                     const at::Tensor& packed_weight, int64_t in_features,
                     const cuda::SumsEpilogue& epilogue, const at::Tensor& out) {
  const auto multiply = uses_tiles(queue) ? multiply_tiles : multiply_unpacked;
  multiply(queue, activations, packed_weight, in_features, epilogue, out);
}

}  // namespace torchquant::ops
