#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "cuda_tensors.h"
#include "outputs.h"
#include "refuse_codes.h"

namespace torchquant::ops {
namespace {

cuda::BitRows bit_rows(const Tensor& codes, int64_t num_bits) {
  return {row_count(codes), codes.size(-1), static_cast<int>(num_bits),
          codes.scalar_type() == at::kChar};
}

// Whether all codes fit is asked of the device, which is waited for.
Tensor pack_bits_cuda(const Tensor& input, int64_t num_bits) {
  check_pack_bits(input, num_bits);
  const Tensor codes = input.contiguous();
  const Tensor packed = new_packed_bits(input, num_bits);
  if (packed.numel() == 0) return packed;
  const Tensor beyond = at::zeros({1}, codes.options().dtype(at::kInt));
  on_device_of(codes, [&](cuda::Queue queue) {
    cuda::pack_bits(queue, codes.const_data_ptr(), bit_rows(codes, num_bits),
                    packed.mutable_data_ptr(), beyond.mutable_data_ptr<int32_t>());
  });
  if (beyond.item<int32_t>() != 0) refuse_codes(codes, num_bits);
  return packed;
}

Tensor unpack_bits_cuda(const Tensor& packed, int64_t num_bits, c10::SymInt last_dim,
                        ScalarType dtype) {
  check_unpack_bits(packed, num_bits, last_dim, dtype);
  const Tensor codes = new_rows(packed, last_dim, dtype);
  if (codes.numel() == 0) return codes;
  on_device_of(packed, [&](cuda::Queue queue) {
    const Tensor bytes = packed.contiguous();
    cuda::unpack_bits(queue, bytes.const_data_ptr(), bit_rows(codes, num_bits),
                      codes.mutable_data_ptr());
  });
  return codes;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CUDA, m) {
  m.impl("pack_bits", &pack_bits_cuda);
  m.impl("unpack_bits", &unpack_bits_cuda);
}

}  // namespace torchquant::ops
