// Layers and calibration of torchquant.h: the operators that they stand for, and what they refuse.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <utility>

#include "torchquant.h"

namespace {

using torchquant::Histogram;
using torchquant::quantize_linear;
using torchquant::quantize_linear_static;
using torchquant::QuantizedLinear;

std::string refusal(const std::function<void()>& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "nothing was refused";
}

Histogram observed(const at::Tensor& x) {
  Histogram histogram;
  histogram.observe(x);
  return histogram;
}

TEST(QuantizedLinear, DynamicIsItsOperator) {
  const at::Tensor weight = at::randn({24, 40}), bias = at::randn({24}), x = at::randn({5, 40});
  const QuantizedLinear layer = quantize_linear(weight, bias, "relu");
  EXPECT_EQ(layer.in_features, 40);
  EXPECT_EQ(layer.out_features, 24);
  const auto [scale, zero] = torchquant::choose_qparams_per_channel(weight, 0, -128, 127, true);
  const auto codes = torchquant::quantize_per_channel(weight, scale, zero, 0, -128, 127, at::kChar);
  EXPECT_TRUE(layer.weight_scale.equal(scale));
  EXPECT_TRUE(layer.packed_weight.equal(torchquant::pack_weight(codes)));
  EXPECT_TRUE(layer.weight_sum.equal(codes.sum(1, false, at::kInt)));
  const auto restored = torchquant::dequantize_per_channel(codes, scale, zero, 0);
  EXPECT_TRUE(layer.weight().equal(restored));
  EXPECT_EQ(layer.weight_snr_db,
            torchquant::quantization_error(weight, restored)[3].item<double>());
  EXPECT_TRUE(layer(x).equal(
      torchquant::linear_dynamic(x, layer.packed_weight, scale, layer.weight_sum, bias, "relu")));
}

TEST(QuantizedLinear, StaticIsItsOperator) {
  const at::Tensor x = at::randn({50, 40});
  const auto [scale, zero_point] = observed(x).qparams();
  QuantizedLinear layer = quantize_linear_static(at::randn({24, 40}), std::nullopt,
                                                 scale.reshape({1}), zero_point.reshape({1}));
  EXPECT_FALSE(layer.bias);
  EXPECT_EQ(layer.input_scale->dim(), 0);
  EXPECT_TRUE(layer(x).equal(torchquant::linear_static(x, scale, zero_point, layer.packed_weight,
                                                       layer.weight_scale, layer.weight_sum)));
  const auto [to, to_zero] = observed(layer(x)).qparams();
  layer.output_scale = to;
  layer.output_zero_point = to_zero;
  EXPECT_EQ(layer(x).scalar_type(), at::kByte);
  layer.output_dtype = at::kChar;
  EXPECT_EQ(layer(x).scalar_type(), at::kChar);
}

TEST(QuantizedLinear, WeightOnlyIsAFloatLayer) {
  const at::Tensor bias = at::randn({24}), x = at::randn({3, 5, 40});
  QuantizedLinear layer = quantize_linear(at::randn({24, 40}), bias);
  layer.scheme = "weight_only";
  for (const auto dtype : {at::kFloat, at::kHalf, at::kBFloat16}) {
    const auto expected = at::linear(x.to(dtype), layer.weight(dtype), bias.to(dtype));
    EXPECT_TRUE(layer(x.to(dtype)).equal(expected));
    layer.activation = "relu";
    EXPECT_TRUE(layer(x.to(dtype)).equal(expected.relu()));
    layer.activation = "none";
  }
}

TEST(QuantizedLinear, TakesHalfPrecisionWeightsAndSizesOfNothing) {
  const at::Tensor weight = at::randn({24, 40}).to(at::kBFloat16);
  EXPECT_TRUE(quantize_linear(weight).weight_scale.equal(
      quantize_linear(weight.to(at::kFloat)).weight_scale));
  EXPECT_EQ(quantize_linear(at::empty({0, 40}))(at::randn({2, 40})).sizes(),
            at::IntArrayRef({2, 0}));
  EXPECT_EQ(quantize_linear(at::empty({3, 0})).weight_snr_db, INFINITY);
}

TEST(QuantizedLinear, TakesTheUndefinedBiasOfALayerWithoutOne) {
  const at::Tensor weight = at::randn({3, 4}), x = at::randn({2, 4});
  const QuantizedLinear layer = quantize_linear(weight, at::Tensor());
  EXPECT_FALSE(layer.bias);
  EXPECT_TRUE(layer(x).equal(quantize_linear(weight)(x)));
}

TEST(QuantizedLinear, RefusesWithTheRepair) {
  const at::Tensor weight = at::randn({3, 4});
  const at::Tensor one = at::ones({}), zero = at::zeros({}, at::kInt);
  EXPECT_EQ(refusal([] { quantize_linear(at::ones({3, 4}, at::kChar)); }),
            "weight must be a float matrix [out_features, in_features], but got Char [3, 4]: pass "
            "the float layer's weight");
  EXPECT_EQ(refusal([] { quantize_linear(at::Tensor()); }),
            "weight must be a float matrix [out_features, in_features], but got an undefined "
            "tensor: pass the float layer's weight");
  EXPECT_EQ(refusal([] { quantize_linear(at::empty({3, 4}, at::kMeta)); }),
            "weight must have data, but is on the meta device: load the model's weights first");
  EXPECT_EQ(refusal([] { quantize_linear(at::full({1, 2}, NAN)); }),
            "weight must be finite, but [1, 2] holds NaN or Inf (as float32): quantize a model "
            "whose weights are sound");
  EXPECT_EQ(refusal([] { quantize_linear(at::zeros({1, 65'794})); }),
            "weight must have at most 65793 inputs, or the int32 sums may overflow, but has 65794: "
            "leave the layer in float");
  EXPECT_EQ(refusal([&] { quantize_linear(weight, at::ones({4})); }),
            "bias must be a float tensor [3], but got Float [4]: pass the float layer's bias, or "
            "std::nullopt");
  EXPECT_EQ(refusal([&] { quantize_linear(weight, std::nullopt, "gelu"); }),
            "activation must be \"none\" or \"relu\", but got \"gelu\": pass \"none\" and apply "
            "others to the output");
  EXPECT_EQ(refusal([&] { quantize_linear_static(weight, std::nullopt, zero, zero); }),
            "input_scale must be one Float, but got Int []: pass what Histogram::qparams returned");
  EXPECT_EQ(refusal([&] { quantize_linear_static(weight, std::nullopt, one * 0, zero); }),
            "input_scale must be positive and finite, but got 0: pass what Histogram::qparams "
            "returned");
  EXPECT_EQ(refusal([&] { quantize_linear_static(weight, std::nullopt, one, at::zeros({2})); }),
            "input_zero_point must be one Int, but got Float [2]: pass what Histogram::qparams "
            "returned");
  for (const int wrong : {-1, 256}) {
    const at::Tensor point = at::full({}, wrong, at::kInt);
    EXPECT_EQ(refusal([&] { quantize_linear_static(weight, std::nullopt, one, point); }),
              "input_zero_point must lie in [0, 255], but got " + std::to_string(wrong) +
                  ": pass what Histogram::qparams returned");
  }
  EXPECT_EQ(refusal([&] { quantize_linear_static(weight, std::nullopt, one / 0, zero); }),
            "input_scale must be positive and finite, but got inf: pass what Histogram::qparams "
            "returned");
  EXPECT_EQ(refusal([&] { quantize_linear(weight)(at::ones({2, 5})); }),
            "input must have 4 features in its last dimension, but got shape [2, 5]: this layer "
            "was made for in_features=4");
  QuantizedLinear strange = quantize_linear(weight);
  strange.scheme = "int4";
  EXPECT_EQ(refusal([&] { strange(at::ones({2, 4})); }),
            "scheme must be \"dynamic\", \"static\" or \"weight_only\", but is \"int4\"");
  strange.scheme = "weight_only";
  EXPECT_EQ(refusal([&] { strange(at::ones({2, 4}, at::kByte)); }),
            "input must be float32, float16 or bfloat16, but got Byte");
}

TEST(Histogram, MergedIsObservedAtOnce) {
  const at::Tensor x = at::randn({200}), y = at::randn({100}) * 3;
  Histogram merged = observed(x);
  merged.merge(observed(y));
  const Histogram at_once = observed(at::cat({x, y}));
  EXPECT_TRUE(merged.counts.equal(at_once.counts));
  EXPECT_TRUE(merged.range.equal(at_once.range));
  for (const char* method : {"minmax", "percentile", "mse", "entropy"}) {
    const auto [scale, zero_point] = merged.qparams(-127, 127, true, method, 99.0);
    const auto [expected, zero] =
        torchquant::histogram_qparams(at_once.counts, at_once.range, -127, 127, true, method, 99.0);
    EXPECT_TRUE(scale.equal(expected));
    EXPECT_TRUE(zero_point.equal(zero));
  }
}

TEST(Histogram, ACopyHasMemoryOfItsOwn) {
  Histogram first = observed(at::ones({3}));
  Histogram copy = first, assigned;
  assigned = first;
  assigned = *&assigned;
  copy.observe(at::full({5}, 2.0));
  assigned.merge(copy);
  EXPECT_EQ(first.counts.sum().item<int64_t>(), 3);
  EXPECT_EQ(copy.counts.sum().item<int64_t>(), 8);
  EXPECT_EQ(assigned.counts.sum().item<int64_t>(), 11);
  EXPECT_EQ(first.range[1].item<float>(), 1);
  const Histogram moved = std::move(copy);
  EXPECT_EQ(moved.range[1].item<float>(), 2);
}

}  // namespace
