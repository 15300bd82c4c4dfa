// The product of prepared activations and a packed weight, with every epilogue, by every set.
#include "kernels.h"

namespace torchquant::fuzz {
namespace {

constexpr Output kOutputs[] = {Output::i32,  Output::f32, Output::f16,
                               Output::bf16, Output::i8,  Output::u8};

struct Product {
  int64_t rows, depth, columns, first_panel, last_panel;
  bool is_signed;
  std::vector<uint8_t> activations, weight;
  std::vector<float> row_scale, weight_scale, bias;
  std::vector<int32_t> row_zero_point, row_offset;
  bool has_zero_point, has_offset, has_bias, relu, one_row;
  Output type;
  QuantizeParams requantize;

  explicit Product(Input& input)
      : rows(input.length(70)),
        depth(input.flip() ? input.length(80) : input.integer(0, 1100)),
        columns(input.integer(1, 140)),
        first_panel(input.integer(0, panels() - 1)),
        last_panel(input.integer(first_panel, panels())),
        is_signed(input.flip()),
        activations(input.bytes(rows * depth)),
        weight(input.bytes(columns * depth)),
        row_scale(input.scales(rows)),
        weight_scale(input.scales(columns)),
        bias(input.floats(columns)),
        row_zero_point(input.zero_points(rows, INT32_MAX)),
        row_offset(input.zero_points(rows, INT32_MAX)),
        has_zero_point(input.flip()),
        has_offset(input.flip()),
        has_bias(input.flip()),
        relu(input.flip()),
        one_row(input.flip()),
        type(input.pick(kOutputs)) {
    const bool to_signed = type == Output::i8;
    requantize = {1.0f / input.scales(1)[0], input.zero_points(1, kVectorZeroPoint)[0],
                  to_signed ? -128 : 0, to_signed ? 127 : 255};
  }
  int64_t panels() const { return (columns + kPanel - 1) / kPanel; }
  int64_t quads() const { return quads_of(depth); }
};

int64_t size_of(Output type) {
  if (type == Output::i32 || type == Output::f32) return 4;
  return type == Output::i8 || type == Output::u8 ? 1 : 2;
}

// In the set's own layout, from its own packing.
std::vector<uint8_t> product_of(const Kernels& set, const Product& p) {
  const int64_t panel_size = p.quads() * kPanelRow;
  std::vector<int8_t> panels(p.panels() * panel_size);
  std::vector<int32_t> sums(p.panels() * kPanel);
  const Fenced weight = fenced(p.weight, 1), rows = fenced(p.activations, 1);
  for (int64_t panel = 0; panel < p.panels(); ++panel) {
    const int64_t first = panel * kPanel, count = std::min(kPanel, p.columns - first);
    int8_t* to = panels.data() + panel * panel_size;
    set.pack.pack(weight.as<int8_t>() + first * p.depth, p.depth, 1, count, p.depth, 0, to);
    set.pack.sum(to, p.quads(), sums.data() + first);
  }
  const Fenced packed(panels);
  const int64_t stride = p.quads() * kQuad * set.matmul.activation_bytes;
  std::vector<uint8_t> prepared(p.rows * stride);
  for (int64_t m = 0; m < p.rows; ++m) {
    set.matmul.prepare_row(rows.as<uint8_t>() + m * p.depth, p.is_signed, p.depth,
                           prepared.data() + m * stride);
  }
  const Fenced activations = fenced(prepared, 1);

  // Signed activations are seen shifted: the zero point takes that back, row by row.
  std::vector<int32_t> zero_point(p.rows);
  const int32_t shift = p.is_signed ? set.matmul.signed_offset : 0;
  for (int64_t m = 0; m < p.rows; ++m) {
    const uint32_t own = p.has_zero_point ? static_cast<uint32_t>(p.row_zero_point[m]) : 0;
    zero_point[m] = static_cast<int32_t>(own + static_cast<uint32_t>(shift));
  }
  Epilogue e = {};
  e.row_zero_point = p.has_zero_point || shift != 0 ? zero_point.data() : nullptr;
  e.row_scale = p.row_scale.data();
  e.row_step = p.one_row ? 0 : 1;
  e.row_offset = p.has_offset ? p.row_offset.data() : nullptr;
  const Fenced weight_sum(sums), weight_scale(p.weight_scale), bias(p.bias);
  e.weight_sum = weight_sum.as<int32_t>();
  e.weight_scale = weight_scale.as<float>();
  e.bias = p.has_bias ? bias.as<float>() : nullptr;
  e.relu = p.relu;
  e.type = p.type;
  e.requantize = p.requantize;
  Guarded out(static_cast<size_t>(p.rows * p.columns * size_of(p.type)));
  set.matmul.multiply({activations.data(), stride, p.is_signed, p.rows, p.quads(),
                       packed.as<int8_t>() + p.first_panel * panel_size, p.first_panel,
                       p.last_panel, p.columns, e, out.data(), p.columns});
  require(out.intact(), "matmul wrote outside its output");
  const auto content = out.content();
  if (p.type == Output::f32) return without_nans(content, Float::f32);
  if (p.type == Output::f16) return without_nans(content, Float::f16);
  if (p.type == Output::bf16) return without_nans(content, Float::bf16);
  return content;
}

void multiply(Input& input) {
  const Product product(input);
  const auto wanted = product_of(scalar(), product);
  for_each_set([&](const Kernels& set) { require(product_of(set, product) == wanted, set.name); });
}

int32_t byte_at(const Fenced& bytes, int64_t index, bool is_signed) {
  return is_signed ? bytes.as<int8_t>()[index] : bytes.as<uint8_t>()[index];
}

void multiply_unpacked(Input& input) {
  const int64_t rows = input.integer(1, 4), depth = input.length(300);
  const int64_t columns = input.integer(1, 20), apart = input.integer(0, 3);
  const bool a_signed = input.flip(), weight_signed = input.flip();
  const int64_t stride = depth + apart, out_stride = columns + apart;
  const Fenced a = fenced(input.bytes((rows - 1) * stride + depth), 1);
  const Fenced weight = fenced(input.bytes((columns - 1) * stride + depth), 1);
  for_each_set([&](const Kernels& set) {
    if (set.matmul.unpacked_rows < rows) return;
    std::vector<int32_t> out(rows * out_stride, -1);
    set.matmul.multiply_unpacked({a.data(), stride, a_signed, rows, depth, weight.data(), stride,
                                  weight_signed, columns, out.data(), out_stride});
    for (int64_t i = 0; i < rows * out_stride; ++i) {
      const int64_t m = i / out_stride, n = i % out_stride;
      int32_t sum = n < columns ? 0 : -1;
      for (int64_t k = 0; n < columns && k < depth; ++k) {
        sum +=
            byte_at(a, m * stride + k, a_signed) * byte_at(weight, n * stride + k, weight_signed);
      }
      require(out[i] == sum, "multiply_unpacked");
    }
  });
}

// What a set makes of codes that lie there already, in its own layout.
std::vector<uint8_t> prepared_codes(const Kernels& set, const Fenced& x, Float type, int64_t k,
                                    const QParams& params) {
  std::vector<uint8_t> codes(k), prepared(quads_of(k) * kQuad * set.matmul.activation_bytes);
  scalar().quantize.runs(x.data(), type, codes.data(), Int::u8, 1, k,
                         {&params.scale, &params.zero_point, kTokenMin, kTokenMax});
  set.matmul.prepare_row(codes.data(), false, k, prepared.data());
  return prepared;
}

void quantize_rows(Input& input) {
  const Float type = input.pick(kFloats);
  const int64_t k = input.length(600);
  const Fenced x = elements(input.floats(k), type);
  const QParams params = {input.scales(1)[0], input.zero_points(1, kVectorZeroPoint)[0]};
  const QParams own = affine_qparams(scalar().range.span(x.data(), type, k), kTokenMin, kTokenMax);
  for_each_set([&](const Kernels& set) {
    std::vector<uint8_t> prepared(quads_of(k) * kQuad * set.matmul.activation_bytes);
    set.matmul.quantize_row(x.data(), type, k,
                            {1.0f / params.scale, params.zero_point, kTokenMin, kTokenMax},
                            prepared.data());
    require(prepared == prepared_codes(set, x, type, k, params), "quantize_row");
    const QParams chosen = set.matmul.quantize_token(x.data(), type, k, prepared.data());
    require(is_same(chosen.scale, own.scale) && chosen.zero_point == own.zero_point,
            "what quantize_token chose");
    require(prepared == prepared_codes(set, x, type, k, own), "quantize_token");
  });
}

}  // namespace

void test(Input input) {
  constexpr void (*kSubjects[])(Input&) = {multiply, multiply, multiply_unpacked, quantize_rows};
  input.pick(kSubjects)(input);
}

}  // namespace torchquant::fuzz
