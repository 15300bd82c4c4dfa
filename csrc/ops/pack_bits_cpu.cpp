#include <torch/library.h>

#include "channels.h"
#include "outputs.h"

namespace torchquant::ops {
namespace {

// Calls row(index) for each row of `tensor`, in parallel.
template <class Row>
void for_each_row(const Tensor& tensor, int64_t last_dim, Row row) {
  const int64_t rows = per_token_view(tensor).channels;
  at::parallel_for(0, rows, at::divup(kGrain, std::max<int64_t>(1, last_dim)),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i) row(i);
                   });
}

void check_codes_fit(const Tensor& codes, int64_t num_bits) {
  const bool is_signed = codes.scalar_type() == at::kChar;
  const auto& bits = kernels::active().bits;
  if (bits.fit(codes.const_data_ptr(), is_signed, codes.numel(), static_cast<int>(num_bits)))
    return;
  const int64_t low = is_signed ? -(int64_t{1} << (num_bits - 1)) : 0;
  const int64_t high = low + (int64_t{1} << num_bits) - 1;
  TORCH_CHECK(false, "input must lie in [", low, ", ", high, "] to fit ", num_bits,
              " bits, but got values from ", codes.min().item<int64_t>(), " to ",
              codes.max().item<int64_t>(), ": quantize it to this range, or pass more num_bits");
}

Tensor pack_bits_cpu(const Tensor& input, int64_t num_bits) {
  check_pack_bits(input, num_bits);
  const Tensor codes = input.contiguous();
  check_codes_fit(codes, num_bits);
  const Tensor packed = new_packed_bits(input, num_bits);
  for_each_row(codes, codes.size(-1), [&](int64_t row) {
    kernels::active().bits.pack(element(codes, row * codes.size(-1)), codes.size(-1),
                                static_cast<int>(num_bits),
                                mutable_element(packed, row * packed.size(-1)));
  });
  return packed;
}

Tensor unpack_bits_cpu(const Tensor& packed, int64_t num_bits, c10::SymInt last_dim,
                       ScalarType dtype) {
  check_unpack_bits(packed, num_bits, last_dim, dtype);
  const Tensor bytes = packed.contiguous();
  const Tensor codes = new_rows(packed, last_dim, dtype);
  for_each_row(codes, codes.size(-1), [&](int64_t row) {
    kernels::active().bits.unpack(element(bytes, row * bytes.size(-1)), dtype == at::kChar,
                                  codes.size(-1), static_cast<int>(num_bits),
                                  mutable_element(codes, row * codes.size(-1)));
  });
  return codes;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CPU, m) {
  m.impl("pack_bits", &pack_bits_cpu);
  m.impl("unpack_bits", &unpack_bits_cpu);
}

}  // namespace torchquant::ops
