// The operators from C++: torchquant.h and the JIT give the same bits.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/runtime/operator.h>

#include "torchquant.h"

namespace {

at::Tensor bytes(at::IntArrayRef shape, at::ScalarType dtype) {
  return dtype == at::kByte ? at::randint(0, 256, shape, dtype)
                            : at::randint(-128, 128, shape, dtype);
}

// The operator as the TorchScript interpreter calls it: found by name, arguments on a stack.
c10::IValue jit(const std::string& name, torch::jit::Stack arguments) {
  const auto symbol = c10::Symbol::fromQualString("torchquant::" + name);
  torch::jit::getAllOperatorsFor(symbol).at(0)->getOperation()(arguments);
  return arguments.at(0);
}

struct Quantized {
  at::Tensor codes, scale, zero_point;
};

Quantized quantize(const at::Tensor& x) {
  const auto [scale, zero_point] = torchquant::choose_qparams_per_channel(x, 0, -128, 127, true);
  return {torchquant::quantize_per_channel(x, scale, zero_point, 0, -128, 127, at::kChar), scale,
          zero_point};
}

TEST(Operators, ChooseQuantizeAndDequantizePerTensor) {
  const at::Tensor x = at::randn({5, 7});
  const auto [scale, zero_point] = torchquant::choose_qparams_per_tensor(x, 0, 255, false);
  const auto q = torchquant::quantize_per_tensor(x, scale, zero_point, 0, 255, at::kByte);
  EXPECT_EQ(q.scalar_type(), at::kByte);
  const auto scripted = jit("quantize_per_tensor", {x, scale, zero_point, 0, 255, at::kByte});
  EXPECT_TRUE(q.equal(scripted.toTensor()));
  const auto back = torchquant::dequantize_per_tensor(q, scale, zero_point);
  // Rounding moves a value by at most half a step, and the float arithmetic by a little more.
  EXPECT_LE((back - x).abs().max().item<float>(), scale.item<float>() * 0.5001f);
}

TEST(Operators, PerTokenIsPerChannelOfRows) {
  const at::Tensor x = at::randn({6, 33});
  const auto [scale, zero_point] = torchquant::choose_qparams_per_token(x, 0, 255, false);
  const auto by_row = torchquant::choose_qparams_per_channel(x, 0, 0, 255, false);
  EXPECT_TRUE(scale.flatten().equal(std::get<0>(by_row)));
  const auto q = torchquant::quantize_per_token(x, scale, zero_point, 0, 255, at::kByte);
  const auto back = torchquant::dequantize_per_token(q, scale, zero_point, at::kHalf);
  EXPECT_EQ(back.scalar_type(), at::kHalf);
  const auto scripted = jit("dequantize_per_token", {q, scale, zero_point, at::kHalf});
  EXPECT_TRUE(back.equal(scripted.toTensor()));
}

TEST(Operators, PerChannelRoundTripAndItsError) {
  const at::Tensor x = at::randn({8, 64});
  const Quantized w = quantize(x);
  const auto back = torchquant::dequantize_per_channel(w.codes, w.scale, w.zero_point, 0);
  const auto error = torchquant::quantization_error(x, back);
  EXPECT_TRUE(error.equal(jit("quantization_error", {x, back}).toTensor()));
  EXPECT_GT(error[3].item<double>(), 38.0);  // 8 bits a row of Gaussian values: about 42 dB
}

TEST(Operators, ResultsGoWhereTheyAreAsked) {
  const at::Tensor x = at::randn({4, 24});
  const auto [scale, zero_point] = torchquant::choose_qparams_per_group(x, 10, -128, 127, false);
  at::Tensor codes = at::empty({24, 4}, at::kChar).t();
  torchquant::quantize_per_group_out(x, scale, zero_point, 10, -128, 127, at::kChar, codes);
  EXPECT_TRUE(
      codes.equal(torchquant::quantize_per_group(x, scale, zero_point, 10, -128, 127, at::kChar)));
  at::Tensor back = at::empty({4, 24}, at::kHalf);
  torchquant::dequantize_per_group_out(codes, scale, zero_point, 10, at::kHalf, back);
  EXPECT_TRUE(
      back.equal(torchquant::dequantize_per_group(codes, scale, zero_point, 10, at::kHalf)));
}

TEST(Operators, DynamicQuantizationIsChoosingAndQuantizing) {
  const at::Tensor x = at::randn({4, 24});
  const auto [codes, scale, zero_point] =
      torchquant::quantize_dynamic_per_token(x, 0, 255, false, at::kByte);
  const auto [wanted, wanted_zero] = torchquant::choose_qparams_per_token(x, 0, 255, false);
  EXPECT_TRUE(scale.equal(wanted));
  EXPECT_TRUE(zero_point.equal(wanted_zero));
  EXPECT_TRUE(codes.equal(torchquant::quantize_per_token(x, scale, zero_point, 0, 255, at::kByte)));
}

TEST(Operators, PackedBitsComeBack) {
  const at::Tensor codes = at::randint(-4, 4, {3, 11}, at::kChar);
  const auto packed = torchquant::pack_bits(codes, 3);
  EXPECT_EQ(packed.sizes(), at::IntArrayRef({3, 5}));
  EXPECT_TRUE(torchquant::unpack_bits(packed, 3, 11, at::kChar).equal(codes));
  EXPECT_TRUE(jit("unpack_bits", {packed, 3, 11, at::kChar}).toTensor().equal(codes));
}

TEST(Operators, MatmulsAgreeWithInt64) {
  for (const auto a_type : {at::kChar, at::kByte}) {
    const at::Tensor a = bytes({9, 50}, a_type), weight = bytes({21, 50}, at::kChar);
    const auto exact = a.to(at::kLong).matmul(weight.t().to(at::kLong)).to(at::kInt);
    EXPECT_TRUE(torchquant::int8_matmul(a, weight.t()).equal(exact));
    const auto packed = torchquant::pack_weight(weight);
    EXPECT_TRUE(torchquant::int8_matmul_packed(a, packed, 21).equal(exact));
    EXPECT_TRUE(torchquant::unpack_weight(packed, 21, 50).equal(weight));
    EXPECT_TRUE(jit("int8_matmul", {a, weight.t()}).toTensor().equal(exact));
  }
}

TEST(Operators, LinearDynamicEqualsItsScriptedSelf) {
  const at::Tensor x = at::randn({2, 5, 40}), bias = at::randn({24});
  const Quantized w = quantize(at::randn({24, 40}));
  const auto packed = torchquant::pack_weight(w.codes);
  const auto sums = w.codes.sum(1, false, at::kInt);
  const auto y = torchquant::linear_dynamic(x, packed, w.scale, sums, bias, "relu");
  EXPECT_EQ(y.sizes(), at::IntArrayRef({2, 5, 24}));
  const auto plain = torchquant::linear_dynamic(x, packed, w.scale, sums);
  const auto scripted = jit("linear_dynamic", {x, packed, w.scale, sums, c10::IValue(), "none"});
  EXPECT_TRUE(plain.equal(scripted.toTensor()));
  EXPECT_TRUE(at::relu(plain + bias).equal(y));
}

TEST(Operators, LinearStaticIsTheLayerOnQuantizedInput) {
  const at::Tensor x = at::randn({2, 5, 40}), bias = at::randn({24});
  const Quantized w = quantize(at::randn({24, 40}));
  const auto packed = torchquant::pack_weight(w.codes);
  const auto sums = w.codes.sum(1, false, at::kInt);
  const auto [scale, zero_point] = torchquant::choose_qparams_per_tensor(x, 0, 255, false);
  const auto codes = torchquant::quantize_per_tensor(x, scale, zero_point, 0, 255, at::kByte);
  const auto y = torchquant::linear_static(x, scale, zero_point, packed, w.scale, sums, bias);
  EXPECT_TRUE(
      y.equal(torchquant::linear_static(codes, scale, zero_point, packed, w.scale, sums, bias)));
  const auto [to, to_zero] = torchquant::choose_qparams_per_tensor(y, -128, 127, false);
  const auto narrow = torchquant::linear_static(codes, scale, zero_point, packed, w.scale, sums,
                                                bias, "none", to, to_zero, at::kChar);
  EXPECT_TRUE(narrow.equal(torchquant::quantize_per_tensor(y, to, to_zero, -128, 127, at::kChar)));
  EXPECT_TRUE(narrow.equal(jit("linear_static", {codes, scale, zero_point, packed, w.scale, sums,
                                                 bias, "none", to, to_zero, at::kChar})
                               .toTensor()));
}

TEST(Operators, ObserveInPartsAndReadEveryMethod) {
  const at::Tensor x = at::randn({40, 50});
  const auto new_counts = [] { return at::zeros({32768}, at::kLong); };
  const auto new_range = [] { return at::tensor({INFINITY, -INFINITY}); };
  at::Tensor counts = new_counts(), range = new_range();
  for (const at::Tensor& part : x.split(7)) torchquant::histogram_observe_(counts, range, part);
  at::Tensor counts_at_once = new_counts(), range_at_once = new_range();
  torchquant::histogram_observe_(counts_at_once, range_at_once, x);
  EXPECT_TRUE(counts.equal(counts_at_once));
  EXPECT_TRUE(range.equal(range_at_once));
  EXPECT_TRUE(range.equal(at::stack({x.min(), x.max()})));
  for (const char* method : {"minmax", "percentile", "mse", "entropy"}) {
    const auto [scale, zero_point] =
        torchquant::histogram_qparams(counts, range, 0, 255, false, method, 99.99);
    torch::jit::Stack stack = {counts, range, 0, 255, false, method, 99.99};
    EXPECT_TRUE(scale.equal(jit("histogram_qparams", stack).toTensor())) << method;
    EXPECT_GT(zero_point.item<int>(), 0);
  }
  const auto exact = torchquant::choose_qparams_per_tensor(x, 0, 255, false);
  const auto read = torchquant::histogram_qparams(counts, range, 0, 255, false, "minmax", 99.99);
  EXPECT_TRUE(std::get<0>(read).equal(std::get<0>(exact)));
  EXPECT_TRUE(std::get<1>(read).equal(std::get<1>(exact)));
}

TEST(Operators, WrongArgumentsThrowAndNameTheArgument) {
  try {
    torchquant::pack_weight(at::randn({2, 2}));
    FAIL() << "a float weight was packed";
  } catch (const c10::Error& error) {
    EXPECT_NE(std::string(error.what()).find("weight must be int8, but got torch.float32"),
              std::string::npos);
  }
}

TEST(Operators, ActiveKernelsAreThoseAskedFor) {
  const char* asked = std::getenv("TORCHQUANT_KERNELS");
  if (asked == nullptr) GTEST_SKIP() << "TORCHQUANT_KERNELS is not set";
  EXPECT_EQ(torchquant::active_kernels(), asked);
  EXPECT_EQ(jit("active_kernels", {}).toStringRef(), asked);
}

}  // namespace
