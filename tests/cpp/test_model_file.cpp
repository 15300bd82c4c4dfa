// Files of quantized models: they come back, and damaged ones are refused, whatever their bytes
// are.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <thread>

#include "model/json.h"
#include "model/safetensors.h"
#include "torchquant.h"

namespace {

using torchquant::QuantizedLinear;
using torchquant::QuantizedModel;
using torchquant::Safetensors;
namespace json = torchquant::json;

std::string path_of(const std::string& name) {
  const auto* test = testing::UnitTest::GetInstance()->current_test_info();
  const auto folder = std::filesystem::path(testing::TempDir()) /
                      ("torchquant-" + std::to_string(::getpid()) + "-" + test->name());
  std::filesystem::create_directories(folder);
  return folder / name;
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void write_file(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::ptrdiff_t files_beside(const std::string& path) {
  return std::distance(
      std::filesystem::directory_iterator(std::filesystem::path(path).parent_path()), {});
}

QuantizedModel example() {
  QuantizedModel model;
  model.layers["plain"] = torchquant::quantize_linear(at::randn({7, 5}), at::randn({7}), "relu");
  model.layers["a.weights"] = torchquant::quantize_linear(at::randn({20, 33}));
  model.layers["a.weights"].scheme = "weight_only";
  QuantizedLinear linked = torchquant::quantize_linear_static(
      at::randn({7, 5}), at::randn({7}), at::full({}, 0.25), at::full({}, 3, at::kInt));
  linked.output_scale = at::full({}, 0.5);
  linked.output_zero_point = at::full({}, -4, at::kInt);
  linked.output_dtype = at::kChar;
  model.layers["linked"] = linked;
  model.layers["static"] = torchquant::quantize_linear_static(
      at::randn({3, 4}), std::nullopt, at::full({}, 0.25), at::full({}, 3, at::kInt));
  model.layers["static"].output_dtype = at::kBFloat16;
  model.layers["static"].weight_snr_db.reset();
  model.layers["exact"] = torchquant::quantize_linear(at::zeros({2, 4}));
  model.tensors["norm.weight"] = at::randn({5}).to(at::kHalf);
  model.tensors["norm.steps"] = at::arange(3);
  model.tensors["nothing"] = at::empty({0, 3});
  return model;
}

void expect_equal(const std::optional<at::Tensor>& one, const std::optional<at::Tensor>& other) {
  ASSERT_EQ(one.has_value(), other.has_value());
  if (one) {
    EXPECT_TRUE(one->equal(*other));
  }
}

void expect_equal(const QuantizedLinear& one, const QuantizedLinear& other) {
  EXPECT_EQ(one.scheme, other.scheme);
  EXPECT_EQ(one.in_features, other.in_features);
  EXPECT_EQ(one.out_features, other.out_features);
  EXPECT_EQ(one.activation, other.activation);
  EXPECT_EQ(one.weight_snr_db, other.weight_snr_db);
  EXPECT_EQ(one.output_dtype, other.output_dtype);
  expect_equal(one.packed_weight, other.packed_weight);
  expect_equal(one.weight_scale, other.weight_scale);
  expect_equal(one.weight_sum, other.weight_sum);
  expect_equal(one.bias, other.bias);
  expect_equal(one.input_scale, other.input_scale);
  expect_equal(one.input_zero_point, other.input_zero_point);
  expect_equal(one.output_scale, other.output_scale);
  expect_equal(one.output_zero_point, other.output_zero_point);
}

std::string refusal(const std::string& path, const std::function<void()>& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    std::string message = error.what_without_backtrace();
    const std::size_t at = message.find(path);
    return at == message.npos ? message : message.replace(at, path.size(), "FILE");
  }
  return "nothing was refused";
}

std::string refusal(const std::string& path) {
  return refusal(path, [&] { torchquant::load_quantized(path); });
}

// Of a change to the model, when it is saved.
std::string refusal_to_save(const std::function<void(QuantizedModel&)>& change) {
  QuantizedModel model = example();
  change(model);
  const std::string path = path_of("unsaved");
  const std::string message = refusal(path, [&] { torchquant::save_quantized(model, path); });
  EXPECT_FALSE(std::filesystem::exists(path)) << message;
  return message;
}

TEST(ModelFile, ComesBack) {
  const QuantizedModel model = example();
  const std::string path = path_of("model");
  torchquant::save_quantized(model, path);
  const QuantizedModel loaded = torchquant::load_quantized(path);
  ASSERT_EQ(loaded.layers.size(), model.layers.size());
  for (const auto& [name, layer] : model.layers) expect_equal(loaded.layers.at(name), layer);
  ASSERT_EQ(loaded.tensors.size(), model.tensors.size());
  for (const auto& [key, tensor] : model.tensors) {
    EXPECT_EQ(loaded.tensors.at(key).scalar_type(), tensor.scalar_type());
    EXPECT_TRUE(loaded.tensors.at(key).equal(tensor));
  }
  EXPECT_EQ(files_beside(path), 1);
}

TEST(ModelFile, OfOneLayerWithoutAName) {
  QuantizedModel model;
  model.layers[""] = torchquant::quantize_linear(at::randn({7, 5}));
  torchquant::save_quantized(model, path_of("model"));
  expect_equal(torchquant::load_quantized(path_of("model")).layers.at(""), model.layers[""]);
}

TEST(ModelFile, SharedTensorsStayShared) {
  const std::string path = path_of("model");
  torchquant::save_quantized(example(), path);
  Safetensors contents = torchquant::read_safetensors(path);
  json::Object header = *json::parse(contents.metadata.at("torchquant")).get<json::Object>();
  header.insert_or_assign("aliases", json::Object{{"other.weight", "norm.weight"}});
  contents.metadata["torchquant"] = json::to_text(header);
  torchquant::write_safetensors(path, contents);
  const QuantizedModel model = torchquant::load_quantized(path);
  EXPECT_TRUE(model.tensors.at("other.weight").is_same(model.tensors.at("norm.weight")));
}

TEST(ModelFile, SharedTensorsAreStoredOnce) {
  QuantizedModel model = example();
  model.layers["plain"].input_scale = model.layers["linked"].output_scale;  // unused: not stored
  model.layers["static"].input_scale = model.layers["linked"].output_scale;
  model.tensors["tied"] = model.tensors["norm.weight"];
  model.tensors["part"] = model.tensors["norm.weight"].slice(0, 0, 3);
  const std::string path = path_of("model");
  torchquant::save_quantized(model, path);
  const Safetensors contents = torchquant::read_safetensors(path);
  EXPECT_EQ(contents.tensors.count("linked.output_scale"), 1u);
  EXPECT_EQ(contents.tensors.count("static.input_scale"), 0u);
  EXPECT_EQ(contents.tensors.count("norm.weight") + contents.tensors.count("tied"), 1u);
  EXPECT_EQ(contents.tensors.count("part"), 1u);
  const QuantizedModel loaded = torchquant::load_quantized(path);
  EXPECT_TRUE(
      loaded.layers.at("static").input_scale->is_same(*loaded.layers.at("linked").output_scale));
  EXPECT_TRUE(loaded.tensors.at("tied").is_same(loaded.tensors.at("norm.weight")));
  EXPECT_TRUE(loaded.tensors.at("part").equal(model.tensors["part"]));
}

TEST(ModelFile, HoldsTheValuesOfAnyView) {
  QuantizedModel model = example();
  model.tensors["turned"] = at::randn({3, 5}).t();
  model.tensors["same"] = at::randn({1}).expand({4});
  model.tensors["negated"] = at::_neg_view(at::randn({4}));
  torchquant::save_quantized(model, path_of("model"));
  const QuantizedModel loaded = torchquant::load_quantized(path_of("model"));
  for (const char* key : {"turned", "same", "negated"}) {
    EXPECT_TRUE(loaded.tensors.at(key).equal(model.tensors[key])) << key;
  }
}

TEST(ModelFile, RefusesToSaveWhatItWouldNotLoad) {
  EXPECT_EQ(refusal_to_save([](auto& model) { model.layers["plain"].scheme = "int4"; }),
            "FILE: layer 'plain': scheme must be \"dynamic\", \"static\" or "
            "\"weight_only\", but is \"int4\": nothing was written");
  EXPECT_EQ(refusal_to_save([](auto& model) { model.layers["plain"].weight_snr_db = NAN; }),
            "FILE: layer 'plain': weight_snr_db must be a number of dB, \"inf\" or null, but is "
            "\"nan\": nothing was written");
  EXPECT_EQ(refusal_to_save([](auto& model) { model.layers["plain"].weight_snr_db = -INFINITY; }),
            "FILE: layer 'plain': weight_snr_db must be a number of dB, \"inf\" or null, but is "
            "\"-inf\": nothing was written");
  EXPECT_EQ(refusal_to_save([](auto& model) { model.layers["static"].output_dtype = at::kDouble; }),
            "FILE: layer 'static': output_dtype must be null or one of float32, float16, bfloat16, "
            "uint8, int8, but is \"float64\": nothing was written");
  EXPECT_EQ(refusal_to_save([](auto& model) { model.layers["linked"].output_scale.reset(); }),
            "linked.output_scale must be a plain dense tensor with data, but is undefined");
  EXPECT_EQ(
      refusal_to_save([](auto& model) { model.layers["plain"].weight_scale = at::ones({3}); }),
      "FILE: plain.weight_scale must be float32 [7], but is float32 [3]: nothing was written");
  EXPECT_EQ(refusal_to_save([](auto& model) { model.layers["plain"].weight_sum.add_(1); }),
            "FILE: plain.weight_sum must be the row sums of the weight, so one of the two was "
            "damaged: nothing was written");
  EXPECT_EQ(refusal_to_save([](auto& model) { model.tensors["plain.more"] = at::ones({1}); }),
            "FILE: layer 'plain' does not have the tensor plain.more, but the file has: "
            "nothing was written");
  EXPECT_EQ(refusal_to_save([](auto& model) { model.tensors["plain.bias"] = at::ones({1}); }),
            "plain.bias must be one tensor, but both a layer and tensors have it");
  EXPECT_EQ(refusal_to_save([](auto& model) { model.tensors["far"] = at::empty({1}, at::kMeta); }),
            "far must be a plain dense tensor with data, but is Strided Float on meta");
  EXPECT_EQ(refusal_to_save(
                [](auto& model) { model.tensors["complex"] = at::ones({1}, at::kComplexFloat); }),
            "complex must be of a dtype of safetensors, but is ComplexFloat");
  EXPECT_EQ(refusal_to_save([](auto& model) { model.tensors["__metadata__"] = at::ones({1}); }),
            "__metadata__ must be another name, as safetensors keeps it for what is no tensor");
  EXPECT_EQ(refusal_to_save([](auto& model) { model.tensors["caf\xe9"] = at::ones({1}); }),
            "JSON must be UTF-8, but 'caf\xe9' is not");
}

TEST(ModelFile, LiesInTheOrderOfTheReference) {
  QuantizedModel model;
  const std::vector<std::pair<const char*, at::ScalarType>> dtypes{
      {"bool", at::kBool},       {"byte", at::kByte},   {"bytes", at::kByte},
      {"char", at::kChar},       {"short", at::kShort}, {"half", at::kHalf},
      {"bfloat", at::kBFloat16}, {"int", at::kInt},     {"float", at::kFloat},
      {"double", at::kDouble},   {"long", at::kLong}};
  for (const auto& [name, dtype] : dtypes) model.tensors[name] = at::ones({3}, dtype);
  torchquant::save_quantized(model, path_of("model"));
  const std::string bytes = read_file(path_of("model"));
  const auto length =
      static_cast<unsigned char>(bytes[0]) + 256u * static_cast<unsigned char>(bytes[1]);
  EXPECT_EQ(length % 8, 0u);
  const json::Value header = json::parse(bytes.substr(8, length));
  std::map<int64_t, std::string> names;  // by where they begin
  for (const auto& [name, value] : *header.get<json::Object>()) {
    if (name == "__metadata__") continue;
    const json::Object& entry = *value.get<json::Object>();
    const int64_t begin = *(*entry.at("data_offsets").get<json::Array>())[0].get<int64_t>();
    EXPECT_EQ(begin % model.tensors[name].itemsize(), 0) << name;
    names[begin] = name;
  }
  std::string order;
  for (const auto& [begin, name] : names) order += name + " ";
  EXPECT_EQ(order, "long double float int bfloat half short char byte bytes bool ");
}

// tests/hostile_files.py has the rest, for both readers.
TEST(ModelFile, RefusesWhatIsNoFile) {
  const std::string what = ": pass what torchquant.save_quantized wrote";
  EXPECT_EQ(refusal(path_of("none")), "FILE does not exist" + what);
  EXPECT_EQ(refusal(path_of(std::string(300, 'x'))),
            "FILE cannot be read (File name too long)" + what);
  const std::string folder = std::filesystem::path(path_of("none")).parent_path();
  const std::string other =
      "FILE is no whole safetensors file (it is a folder, a device or a pipe)";
  EXPECT_EQ(refusal(folder), other + what);
  EXPECT_EQ(refusal("/dev/zero"), other + what);
  ASSERT_EQ(::mkfifo(path_of("pipe").c_str(), 0600), 0);
  EXPECT_EQ(refusal(path_of("pipe")), other + what);
}

TEST(ModelFile, CutAnywhereItIsRefused) {
  const std::string path = path_of("model");
  torchquant::save_quantized(example(), path);
  const std::string bytes = read_file(path);
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    write_file(path, bytes.substr(0, length));
    EXPECT_NE(refusal(path).find("FILE is no whole safetensors file"), std::string::npos);
  }
}

TEST(ModelFile, WithAnyByteChangedItIsRefusedOrSound) {
  at::set_num_threads(1);  // thousands of tiny products, where threads would only wait
  const std::string path = path_of("model");
  torchquant::save_quantized(example(), path);
  const std::string bytes = read_file(path);
  int refused = 0;
  for (std::size_t position = 0; position < bytes.size(); ++position) {
    std::string changed = bytes;
    changed[position] ^= static_cast<char>(1 << position % 8);
    write_file(path, changed);
    try {
      const QuantizedModel model = torchquant::load_quantized(path);
      for (const auto& [name, layer] : model.layers) layer(at::randn({2, layer.in_features}));
    } catch (const c10::Error&) {
      ++refused;
    }
  }
  // What is neither a float, nor free text, nor padding of the header.
  EXPECT_GT(refused, static_cast<int>(bytes.size() / 2));
}

TEST(ModelFile, ThatCannotBeWrittenLeavesTheOldOne) {
  const std::string path = path_of("model");
  torchquant::save_quantized(example(), path);
  const std::string bytes = read_file(path);
  QuantizedModel broken = example();
  broken.tensors["complex"] = at::ones({1}, at::kComplexFloat);  // found when the file is open
  EXPECT_THROW(torchquant::save_quantized(broken, path), c10::Error);
  EXPECT_EQ(files_beside(path), 1);
  EXPECT_EQ(read_file(path), bytes);
  const auto refusal_at = [](const std::string& place) {
    return refusal(place, [&] { torchquant::save_quantized(example(), place); });
  };
  const std::string no_file =
      "FILE must be a file, but is a folder, a device or a pipe: name a new file";
  EXPECT_EQ(refusal_at("/dev/null"), no_file);
  EXPECT_EQ(refusal_at(std::filesystem::path(path).parent_path()), no_file);
  EXPECT_EQ(refusal_at(path_of("none") + "/model"),
            "FILE cannot be written: No such file or directory");
  EXPECT_EQ(refusal_at(path + "/model"), "FILE cannot be written: Not a directory");
  EXPECT_EQ(refusal_at(path_of(std::string(300, 'x'))),
            "FILE cannot be written: File name too long");
  const std::string link = path_of("link");
  std::filesystem::create_symlink(path, link);
  torchquant::save_quantized(example(), link);
  EXPECT_TRUE(std::filesystem::is_symlink(link));
  EXPECT_NE(read_file(path), bytes);
}

// Files may grow to 1,000 bytes only, so the new one ends half way.
TEST(ModelFile, OnAFullDiskTheOldOneStays) {
  const std::string path = path_of("model");
  torchquant::save_quantized(example(), path);
  const std::string bytes = read_file(path);
  struct rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const struct rlimit small{1000, before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &small);
  const std::string message = refusal(path, [&] { torchquant::save_quantized(example(), path); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(message, "FILE cannot be written: File too large");
  EXPECT_EQ(read_file(path), bytes);
  EXPECT_EQ(files_beside(path), 1);
}

TEST(ModelFile, KeepsItsModeWhenItIsReplaced) {
  const std::string path = path_of("model");
  torchquant::save_quantized(example(), path);
  ASSERT_EQ(::chmod(path.c_str(), 0640), 0);
  torchquant::save_quantized(example(), path);
  struct stat found{};
  ::stat(path.c_str(), &found);
  EXPECT_EQ(found.st_mode & 07777, 0640u);
}

TEST(ModelFile, ThreadsThatSaveToOnePathLeaveOneOfTheirs) {
  const std::string path = path_of("model");
  const QuantizedModel models[] = {example(), example()};
  std::vector<std::thread> threads;
  std::atomic<int> failed{0};
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int turn = 0; turn < 5; ++turn) {
        try {
          torchquant::save_quantized(models[i % 2], path);
        } catch (const c10::Error&) {
          ++failed;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failed, 0);
  EXPECT_EQ(files_beside(path), 1);
  const QuantizedModel loaded = torchquant::load_quantized(path);
  const at::Tensor found = loaded.tensors.at("norm.weight");
  EXPECT_TRUE(found.equal(models[0].tensors.at("norm.weight")) ||
              found.equal(models[1].tensors.at("norm.weight")));
}

}  // namespace
