// Codes of a few bits, packed weights and transposed tiles.
#include "kernels.h"

namespace torchquant::fuzz {
namespace {

void bits(Input& input) {
  const int width = static_cast<int>(input.integer(2, 8));
  const bool is_signed = input.flip(), fits = input.flip();
  const int64_t n = input.length(700), packed_size = (n * width + 7) / 8;
  auto bytes = input.bytes(n);
  for (uint8_t& byte : bytes) {
    if (!fits) continue;
    const int low = byte & ((1 << width) - 1), sign = is_signed ? 1 << (width - 1) : 0;
    byte = static_cast<uint8_t>((low ^ sign) - sign);
  }
  const Fenced codes = fenced(bytes, 1);
  for_each_set([&](const Kernels& set) {
    Guarded packed(packed_size), wanted(packed_size), back(n);
    const bool all_fit = scalar().bits.pack(codes.data(), is_signed, n, width, wanted.data());
    require(set.bits.pack(codes.data(), is_signed, n, width, packed.data()) == all_fit,
            "whether all codes fit");
    require(packed.intact(), "pack wrote outside its output");
    if (!all_fit) return;
    require(packed.content() == wanted.content(), "packed bits");
    const Fenced again = fenced(packed.content(), 1);
    set.bits.unpack(again.data(), is_signed, n, width, back.data());
    require(back.intact() && back.content() == bytes, "unpacked bits");
  });
}

// Bytes of any value, spare bits too.
void unpack_bits(Input& input) {
  const int width = static_cast<int>(input.integer(2, 8));
  const bool is_signed = input.flip();
  const int64_t n = input.length(700);
  const Fenced packed = fenced(input.bytes((n * width + 7) / 8), 1);
  require_same(n, Int::u8, [&](const Kernels& set, void* codes) {
    set.bits.unpack(packed.data(), is_signed, n, width, codes);
  });
}

void weight(Input& input) {
  const int64_t columns = input.integer(1, kPackColumns), k = input.length(200);
  const bool by_rows = input.flip();
  const int64_t gap = input.integer(1, 3);
  const int64_t column_stride = by_rows ? k * gap : gap, k_stride = by_rows ? gap : columns * gap;
  const uint8_t flip = input.flip() ? 128 : 0;
  const int64_t extent = k == 0 ? 0 : (columns - 1) * column_stride + (k - 1) * k_stride + 1;
  const Fenced bytes = fenced(input.bytes(extent), 1);
  const int64_t quads = quads_of(k), panels = (columns + kPanel - 1) / kPanel;
  const int64_t size = panels * quads * kPanelRow;
  require_same(size, Int::i8, [&](const Kernels& set, void* to) {
    set.pack.pack(bytes.as<int8_t>(), column_stride, k_stride, columns, k, flip,
                  static_cast<int8_t*>(to));
    int32_t sums[kPanel];
    set.pack.sum(static_cast<const int8_t*>(to), quads, sums);
    Guarded back(columns * k);
    const int64_t first = std::min(columns, kPanel);
    set.pack.unpack(static_cast<const int8_t*>(to), first, k, static_cast<int8_t*>(back.data()));
    require(back.intact(), "unpack wrote outside its output");
    const auto content = back.content();
    for (int64_t n = 0; n < first; ++n) {
      int32_t sum = 0;
      for (int64_t i = 0; i < k; ++i) {
        const auto byte = bytes.as<uint8_t>()[n * column_stride + i * k_stride];
        require(content[n * k + i] == static_cast<uint8_t>(byte + flip), "unpacked weight");
        sum += static_cast<int8_t>(byte + flip);
      }
      require(sums[n] == sum, "the sum of a weight row");
    }
  });
}

void transpose(Input& input) {
  constexpr int64_t kSizes[] = {1, 2, 4};
  const int64_t size = input.pick(kSizes), rows = input.length(90), columns = input.length(90);
  const int64_t from_stride = rows + input.integer(0, 3), to_stride = columns + input.integer(0, 3);
  if (rows == 0 || columns == 0) return;
  const Fenced from = fenced(input.bytes(((columns - 1) * from_stride + rows) * size), size);
  const int64_t extent = ((rows - 1) * to_stride + columns) * size;
  for_each_set([&](const Kernels& set) {
    Guarded to(extent);
    auto wanted = to.content();
    set.transpose.tile(from.data(), from_stride, to.data(), to_stride, rows, columns, size);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        std::memcpy(wanted.data() + (r * to_stride + c) * size,
                    from.as<uint8_t>() + (c * from_stride + r) * size, size);
      }
    }
    require(to.intact() && to.content() == wanted, "a transposed tile");
  });
}

}  // namespace

void test(Input input) {
  constexpr void (*kSubjects[])(Input&) = {bits, unpack_bits, weight, transpose};
  input.pick(kSubjects)(input);
}

}  // namespace torchquant::fuzz
