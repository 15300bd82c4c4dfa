#include <torch/library.h>

#include <atomic>

#include "channels.h"
#include "outputs.h"
#include "refuse_codes.h"

namespace torchquant::ops {
namespace {

// Calls span(first, count, byte) in parallel for spans of codes and the packed byte that each
// begins with: rows, cut where a span ends a byte. Rows without spare bits follow each other as one
// does.
template <class Span>
void for_each_span(const Tensor& codes, int64_t num_bits, int64_t row_bytes, Span span) {
  if (codes.numel() == 0) return;
  const bool is_dense = codes.size(-1) * num_bits % 8 == 0;
  const int64_t row = is_dense ? codes.numel() : codes.size(-1);
  const int64_t spans_of_row = at::divup(row, kGrain);
  const int64_t spans = codes.numel() / row * spans_of_row;
  parallel_for(0, spans, at::divup(kGrain, row), [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      const int64_t offset = i % spans_of_row * kGrain;
      span(i / spans_of_row * row + offset, std::min(kGrain, row - offset),
           i / spans_of_row * row_bytes + offset * num_bits / 8);
    }
  });
}

Tensor pack_bits_cpu(const Tensor& input, int64_t num_bits) {
  check_pack_bits(input, num_bits);
  const Tensor codes = input.contiguous();
  const Tensor packed = new_packed_bits(input, num_bits);
  const bool is_signed = codes.scalar_type() == at::kChar;
  std::atomic<bool> all_fit = true;
  for_each_span(codes, num_bits, packed.size(-1), [&](int64_t first, int64_t count, int64_t byte) {
    const bool fit =
        kernels::active().bits.pack(element(codes, first), is_signed, count,
                                    static_cast<int>(num_bits), mutable_element(packed, byte));
    if (!fit) all_fit = false;
  });
  if (!all_fit) refuse_codes(codes, num_bits);
  return packed;
}

Tensor unpack_bits_cpu(const Tensor& packed, int64_t num_bits, c10::SymInt last_dim,
                       ScalarType dtype) {
  check_unpack_bits(packed, num_bits, last_dim, dtype);
  const Tensor bytes = packed.contiguous();
  const Tensor codes = new_rows(packed, last_dim, dtype);
  for_each_span(codes, num_bits, packed.size(-1), [&](int64_t first, int64_t count, int64_t byte) {
    kernels::active().bits.unpack(element(bytes, byte), dtype == at::kChar, count,
                                  static_cast<int>(num_bits), mutable_element(codes, first));
  });
  return codes;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CPU, m) {
  m.impl("pack_bits", &pack_bits_cpu);
  m.impl("unpack_bits", &unpack_bits_cpu);
}

}  // namespace torchquant::ops
