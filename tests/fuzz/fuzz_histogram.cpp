// Observing by every kernel set, by the operator at any strides, and what is read from any state.
#include <ATen/ATen.h>
#include <torchquant.h>

#include "kernels.h"
#include "math/range_histogram.h"

namespace torchquant::fuzz {
namespace {

struct State {
  std::vector<uint32_t> tables = std::vector<uint32_t>(kBins * kTables);
  std::vector<int64_t> counts = std::vector<int64_t>(kBins);
  Observed seen = kNothingSeen;
};

// The definition.
State observed(const std::vector<float>& values) {
  State state;
  for (const float value : values) {
    ++state.counts[bits_of(value) >> kBinShift];
    const uint32_t magnitude = bits_of(value) & 0x7fffffff;
    if (magnitude > 0) state.seen.least = std::min(state.seen.least, magnitude);
    state.seen.greatest = std::max(state.seen.greatest, magnitude);
    if (!std::isfinite(value)) continue;
    state.seen.min = std::min(state.seen.min, value);
    state.seen.max = std::max(state.seen.max, value);
  }
  return state;
}

std::vector<float> to_floats(const Fenced& x, Float type, int64_t n) {
  std::vector<float> values;
  with_type(type, [&](auto element) {
    for (int64_t i = 0; i < n; ++i) {
      values.push_back(to_float(load<decltype(element)>(x.data(), i)));
    }
  });
  return values;
}

void kernels(Input& input) {
  const Float type = input.pick(kFloats);
  const int64_t n = input.length(5000);
  const Fenced x = elements(input.floats(n), type);
  const State wanted = observed(to_floats(x, type, n));
  for_each_set([&](const Kernels& set) {
    State state;
    set.histogram.observe(x.data(), type, n, state.tables.data(), state.seen);
    require(state.seen.least == wanted.seen.least && state.seen.greatest == wanted.seen.greatest &&
                state.seen.min == wanted.seen.min && state.seen.max == wanted.seen.max,
            "what was seen");
    set.histogram.flush(state.tables.data(), state.seen, state.counts.data());
    require(state.counts == wanted.counts, "counts");
    require(state.tables == std::vector<uint32_t>(kBins * kTables), "counters left by flush");
  });
}

void operators(Input& input) {
  const int64_t rows = input.length(60), columns = input.length(60), step = input.integer(1, 3);
  const std::vector<float> values = input.floats(rows * columns * step);
  at::Tensor x = at::tensor(values).reshape({rows, columns * step}).slice(1, 0, INT64_MAX, step);
  if (input.flip()) x = x.t();
  at::Tensor counts = at::zeros({kBins}, at::kLong);
  at::Tensor range = at::tensor({INFINITY, -INFINITY});
  histogram_observe_(counts, range, x);
  const at::Tensor dense = x.contiguous();
  const State wanted =
      observed({dense.const_data_ptr<float>(), dense.const_data_ptr<float>() + dense.numel()});
  require(std::memcmp(counts.const_data_ptr<int64_t>(), wanted.counts.data(),
                      sizeof(int64_t) * kBins) == 0,
          "histogram_observe_: counts");
  require(range[0].item<float>() == wanted.seen.min && range[1].item<float>() == wanted.seen.max,
          "histogram_observe_: range");
}

// Counts and a range that no observation need have left: a result of the contract, or an error.
void qparams(Input& input) {
  constexpr std::string_view kMethods[] = {"minmax", "percentile", "mse", "entropy"};
  at::Tensor counts = at::zeros({kBins}, at::kLong);
  const int64_t bins = input.integer(0, 12);
  for (int64_t i = 0; i < bins; ++i) {
    counts[input.integer(0, kBins - 1)] =
        input.flip() ? input.integer(0, 1000) : input.integer(INT64_MIN, INT64_MAX);
  }
  at::Tensor range = at::tensor(input.floats(2));
  const CodeRange codes = code_range(input, Int::i32);
  const bool symmetric = input.flip();
  const std::string_view method = input.pick(kMethods);
  const double percentile = 50 + static_cast<double>(input.integer(1, 5000)) / 100;
  try {
    const auto [scale, zero_point] =
        histogram_qparams(counts, range, codes.min, codes.max, symmetric, method, percentile);
    const auto s = scale.item<float>();
    const auto zero = zero_point.item<int32_t>();
    require(s >= FLT_MIN && s <= FLT_MAX, "histogram_qparams: a scale that is no normal float");
    require(codes.min <= zero && zero <= codes.max,
            "histogram_qparams: a zero point beyond the codes");
  } catch (const c10::Error&) {
    return;  // as the contract has it for such states
  }
}

}  // namespace

void test(Input input) {
  constexpr void (*kSubjects[])(Input&) = {kernels, kernels, operators, qparams};
  input.pick(kSubjects)(input);
}

}  // namespace torchquant::fuzz
