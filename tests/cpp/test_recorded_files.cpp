// Files of each version that was ever written (tests/data): they are read, and give what they gave.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>

#include "model/safetensors.h"
#include "torchquant.h"

namespace {

std::string path_of(const char* name) { return std::string(TORCHQUANT_TEST_DATA "/") + name; }

TEST(RecordedFiles, AModelOfVersion1GivesWhatItGave) {
  const torchquant::QuantizedModel model =
      torchquant::load_quantized(path_of("model_v1.safetensors"));
  const auto known = torchquant::read_safetensors(path_of("results_v1.safetensors")).tensors;
  const at::Tensor x = known.at("input");
  const auto& layers = model.layers;
  EXPECT_TRUE(layers.at("dynamic")(x).equal(known.at("dynamic")));
  EXPECT_TRUE(layers.at("chain.2")(layers.at("chain.0")(x)).equal(known.at("chain")));
  EXPECT_TRUE(layers.at("weight_only")(x).equal(known.at("weight_only")));
}

// It is a layer of the first, and shares the tensors of the others: Python loads what is saved
// again.
TEST(RecordedFiles, ALayerUnderTwoNamesStaysOne) {
  torchquant::QuantizedModel model = torchquant::load_quantized(path_of("model_v1.safetensors"));
  const auto expect_shared = [](const torchquant::QuantizedModel& found) {
    EXPECT_EQ(found.layers.count("again"), 0u);
    EXPECT_TRUE(
        found.tensors.at("again.packed_weight").is_same(found.layers.at("dynamic").packed_weight));
  };
  expect_shared(model);
  const std::string path = testing::TempDir() + "/torchquant-again.safetensors";
  torchquant::save_quantized(model, path);
  const auto stored = torchquant::read_safetensors(path).tensors;
  EXPECT_EQ(stored.count("again.packed_weight") + stored.count("dynamic.packed_weight"), 1u);
  expect_shared(torchquant::load_quantized(path));
}

}  // namespace
