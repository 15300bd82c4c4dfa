#include <torch/library.h>

#include "memory_order.h"
#include "quantize_dynamic.h"

namespace torchquant::ops {
namespace {

// Where the codes of a row go, and the parameters of its groups.
struct Row {
  const void* x;
  void* q;
  float* scale;
  int32_t* zero_point;
};

struct RowQuantizer {
  kernels::Float from;
  kernels::Int to;
  kernels::ChosenCodes codes;

  // Groups that follow each other, `count` of n values each. They are read twice, the second time
  // from cache. Chosen zero points lie in [quant_min, quant_max], so every kernel set takes them.
  void operator()(const Row& row, int64_t count, int64_t n, std::vector<Range>& ranges) const {
    const kernels::Kernels& set = kernels::active();
    ranges.assign(count, kEmptyRange);
    set.range.runs(row.x, from, count, n, ranges.data());
    set.range.choose(ranges.data(), count, codes, row.scale, row.zero_point);
    set.quantize.runs(row.x, from, row.q, to, count, n,
                      {row.scale, row.zero_point, codes.quant_min, codes.quant_max});
  }
};

// Each row of `groups` groups is chosen for and quantized while it is in cache.
void quantize_rows(const Tensor& input, int64_t group_size, int64_t groups,
                   const kernels::ChosenCodes& codes, const Quantized& result) {
  const Source x(input, Source::Reads::rows);
  const Tensor &q = std::get<0>(result), &scale = std::get<1>(result),
               &zero_point = std::get<2>(result);
  const RowQuantizer quantizer = {kernel_float(input.scalar_type()), kernel_int(q.scalar_type()),
                                  codes};
  auto* scales = scale.mutable_data_ptr<float>();
  auto* zero_points = zero_point.mutable_data_ptr<int32_t>();
  const int64_t size = input.size(-1), whole = size / group_size;
  const int64_t grain = at::divup(kGrain, std::clamp<int64_t>(size, 1, kGrain));
  parallel_for(0, row_count(input), grain, [&](int64_t begin, int64_t end) {
    std::vector<Range> ranges;
    for (int64_t m = begin; m < end; ++m) {
      const auto row_from = [&](int64_t group) {
        const int64_t i = m * size + group * group_size, channel = m * groups + group;
        return Row{x.address(i), mutable_element(q, i), scales + channel, zero_points + channel};
      };
      if (whole > 0) quantizer(row_from(0), whole, group_size, ranges);
      if (whole < groups) quantizer(row_from(whole), 1, size - whole * group_size, ranges);
    }
  });
}

// The whole range is needed before the first code: two passes.
Quantized quantize_dynamic_per_tensor_cpu(const Tensor& input, int64_t quant_min, int64_t quant_max,
                                          bool symmetric, ScalarType dtype) {
  check_quantize_dynamic(input, quant_min, quant_max, symmetric, dtype);
  const DefaultFloats floats;
  const Quantized result = new_quantized(input, dtype, new_qparams_per_tensor(input));
  const Tensor &q = std::get<0>(result), &scale = std::get<1>(result),
               &zero_point = std::get<2>(result);
  const Tensor in_order = MemoryOrder(input).of(input);
  const Range range = range_of_all(Source(in_order, Source::Reads::rows));
  const kernels::ChosenCodes codes = chosen_codes(quant_min, quant_max, symmetric);
  auto* one_scale = scale.mutable_data_ptr<float>();
  auto* one_zero_point = zero_point.mutable_data_ptr<int32_t>();
  kernels::active().range.choose(&range, 1, codes, one_scale, one_zero_point);
  const kernels::ChannelParams params = {one_scale, one_zero_point, codes.quant_min,
                                         codes.quant_max};
  const auto from = kernel_float(input.scalar_type());
  for_each_stretch(Source(input, Source::Reads::rows_or_columns),
                   [&](int64_t begin, int64_t end, const void* x) {
                     kernels::active().quantize.runs(x, from, mutable_element(q, begin),
                                                     kernel_int(dtype), 1, end - begin, params);
                   });
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchquant, CPU, m) {
  m.impl("quantize_dynamic_per_tensor", &quantize_dynamic_per_tensor_cpu);
  m.impl("quantize_dynamic_per_token", &quantize_dynamic_per_token<quantize_rows>);
  m.impl("quantize_dynamic_per_group", &quantize_dynamic_per_group<quantize_rows>);
}

}  // namespace torchquant::ops
