// Files of quantized models: they come back, and damaged ones are refused, whatever their bytes
// are.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>

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

// The header's JSON, and the tensors, changed.
std::string refusal_of(const std::function<void(json::Object&, Safetensors&)>& change) {
  const std::string path = path_of("changed");
  torchquant::save_quantized(example(), path);
  Safetensors contents = torchquant::read_safetensors(path);
  json::Object header = *json::parse(contents.metadata.at("torchquant")).get<json::Object>();
  change(header, contents);
  contents.metadata["torchquant"] = json::to_text(header);
  torchquant::write_safetensors(path, contents);
  return refusal(path);
}

std::string refusal_of_entry(const std::string& key, const json::Value& value) {
  return refusal_of([&](json::Object& header, Safetensors&) {
    json::Object layers = *header.at("layers").get<json::Object>();
    json::Object layer = *layers.at("linked").get<json::Object>();
    layer.insert_or_assign(key, value);
    layers.insert_or_assign("linked", layer);
    header.insert_or_assign("layers", layers);
  });
}

std::string refusal_of_tensor(const std::string& key, const at::Tensor& tensor) {
  return refusal_of([&](json::Object&, Safetensors& contents) { contents.tensors[key] = tensor; });
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
            "FILE: layer 'plain': scheme must be dynamic, static or weight_only, but is \"int4\"");
  EXPECT_EQ(refusal_to_save([](auto& model) { model.layers["plain"].weight_snr_db = NAN; }),
            "FILE: layer 'plain': weight_snr_db must be a number of dB, \"inf\" or null, but is "
            "\"nan\"");
  EXPECT_EQ(refusal_to_save([](auto& model) { model.layers["plain"].weight_snr_db = -INFINITY; }),
            "FILE: layer 'plain': weight_snr_db must be a number of dB, \"inf\" or null, but is "
            "\"-inf\"");
  EXPECT_EQ(refusal_to_save([](auto& model) { model.layers["static"].output_dtype = at::kDouble; }),
            "FILE: layer 'static': output_dtype must be null or one of float32, float16, bfloat16, "
            "uint8, int8, but is \"Double\"");
  EXPECT_EQ(refusal_to_save([](auto& model) { model.layers["linked"].output_scale.reset(); }),
            "linked.output_scale must be a plain dense tensor with data, but is undefined");
  EXPECT_EQ(
      refusal_to_save([](auto& model) { model.layers["plain"].weight_scale = at::ones({3}); }),
      "FILE: plain.weight_scale must be Float [7], but is Float [3]");
  EXPECT_EQ(refusal_to_save([](auto& model) { model.layers["plain"].weight_sum.add_(1); }),
            "FILE: plain.weight_sum must be the row sums of the weight, so one of the two was "
            "damaged");
  EXPECT_EQ(refusal_to_save([](auto& model) { model.tensors["plain.more"] = at::ones({1}); }),
            "FILE: layer 'plain' does not have the tensor plain.more, but the file has");
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

TEST(ModelFile, RefusesWhatItsHeaderMayNotSay) {
  EXPECT_EQ(refusal_of([](auto& header, auto&) { header.insert_or_assign("version", 2L); }),
            "FILE must have version 1, but has 2 (written by torchquant \"" TORCHQUANT_VERSION
            "\"): install a newer torchquant, or quantize the float model again");
  EXPECT_EQ(refusal_of([](auto& header, auto&) { header.insert_or_assign("format", "other"); }),
            "FILE must hold a quantized model, but its metadata says otherwise: pass what "
            "save_quantized wrote");
  EXPECT_EQ(refusal_of([](auto& header, auto&) { header.erase("layers"); }),
            "FILE: layers must be a JSON object");
  EXPECT_EQ(refusal_of([](auto& header, auto&) {
              header.insert_or_assign("aliases", json::Object{{"x", "none"}});
            }),
            "FILE: the alias x must be of a stored tensor, and none itself, but stands for "
            "\"none\"");
  EXPECT_EQ(refusal_of_entry("scheme", "int4"),
            "FILE: layer 'linked': scheme must be dynamic, static or weight_only, but is \"int4\"");
  EXPECT_EQ(refusal_of_entry("in_features", -1L),
            "FILE: layer 'linked': in_features must be a number of features, but is -1");
  EXPECT_EQ(refusal_of_entry("in_features", int64_t{1} << 62),
            "FILE: linked.packed_weight must be Char [1, 1152921504606846976, 16, 4], but is Char "
            "[1, 2, 16, 4]");
  EXPECT_EQ(refusal_of_entry("bias", 1L),
            "FILE: layer 'linked': bias must be true or false, but is 1");
  EXPECT_EQ(refusal_of_entry("bias", false),
            "FILE: layer 'linked' does not have the tensor linked.bias, but the file has");
  EXPECT_EQ(refusal_of_entry("activation", "gelu"),
            "FILE: layer 'linked': activation must be none or relu, but is \"gelu\"");
  EXPECT_EQ(refusal_of_entry("weight_snr_db", "much"),
            "FILE: layer 'linked': weight_snr_db must be a number of dB, \"inf\" or null, but is "
            "\"much\"");
  EXPECT_EQ(refusal_of_entry("output_dtype", "float32"),
            "FILE: layer 'linked': output_dtype must be float without requantize and uint8 or int8 "
            "with it, but is Float");
  EXPECT_EQ(refusal_of_entry("group_size", 32L),
            "FILE: layer 'linked' has the unknown entry group_size");
}

TEST(ModelFile, RefusesTensorsThatItsLayersCannotHave) {
  EXPECT_EQ(refusal_of([](auto&, auto& contents) { contents.tensors.erase("plain.weight_sum"); }),
            "FILE lacks plain.weight_sum, which must be Int [7]");
  EXPECT_EQ(refusal_of_tensor("plain.weight_scale", at::ones({8})),
            "FILE: plain.weight_scale must be Float [7], but is Float [8]");
  EXPECT_EQ(refusal_of_tensor("plain.weight_scale", at::zeros({7})),
            "FILE: plain.weight_scale must be positive and finite");
  EXPECT_EQ(refusal_of_tensor("linked.input_scale", at::full({}, NAN)),
            "FILE: linked.input_scale must be positive and finite");
  EXPECT_EQ(refusal_of_tensor("linked.input_zero_point", at::full({}, 256, at::kInt)),
            "FILE: linked.input_zero_point must lie in [0, 255], but is 256");
  EXPECT_EQ(refusal_of_tensor("linked.output_zero_point", at::full({}, 128, at::kInt)),
            "FILE: linked.output_zero_point must lie in [-128, 127], but is 128");
  EXPECT_EQ(refusal_of_tensor("plain.weight_sum", at::zeros({7}, at::kInt)),
            "FILE: plain.weight_sum must be the row sums of the weight, so one of the two was "
            "damaged");
  EXPECT_EQ(refusal_of_tensor("plain.packed_weight", at::ones({1, 2, 16, 4}, at::kChar)),
            "FILE: plain.packed_weight must be zero in its padding");
}

TEST(ModelFile, RefusesWhatIsNotThereOrElse) {
  EXPECT_EQ(refusal(path_of("none")), "cannot open FILE: does it exist, and may you read it?");
  const std::string path = path_of("empty");
  write_file(path, "");
  EXPECT_EQ(refusal(path), "FILE is no whole safetensors file: it has 0 bytes");
  torchquant::write_safetensors(path, {{}, {{"torchquant", "{"}}});
  EXPECT_EQ(refusal(path), "FILE: its metadata is invalid JSON: expected a key at byte 1");
  torchquant::write_safetensors(path, {});
  EXPECT_EQ(refusal(path),
            "FILE must hold a quantized model, but its metadata says otherwise: pass what "
            "save_quantized wrote");
  const std::string folder = std::filesystem::path(path).parent_path();
  EXPECT_EQ(refusal(folder), "cannot open FILE: does it exist, and may you read it?");
  EXPECT_EQ(refusal("/dev/zero"), "cannot open FILE: does it exist, and may you read it?");
}

TEST(ModelFile, RefusesHeadersThatLie) {
  const auto refusal_of_header = [](const std::string& header, const std::string& data) {
    const std::string path = path_of("lie");
    std::string length(8, '\0');
    for (int byte = 0; byte < 8; ++byte)
      length[byte] = static_cast<char>(header.size() >> 8 * byte);
    write_file(path, length + header + data);
    return refusal(path);
  };
  const auto entry = [](const char* dtype, const char* shape, const char* offsets) {
    return std::string(R"({"a":{"dtype":")") + dtype + R"(","shape":)" + shape +
           R"(,"data_offsets":)" + offsets + "}}";
  };
  const std::string whole = "FILE is no whole safetensors file: ";
  const std::string bytes = whole + "a does not take the bytes of its shape";
  EXPECT_EQ(refusal_of_header(entry("U8", "[5]", "[0,4]"), "1234"), bytes);
  EXPECT_EQ(refusal_of_header(entry("U8", "[4]", "[1,5]"), "12345"), bytes);
  EXPECT_EQ(refusal_of_header(entry("U8", "[4]", "[4,0]"), "1234"), bytes);
  EXPECT_EQ(refusal_of_header(entry("I64", "[2305843009213693952]", "[0,0]"), ""), bytes);
  EXPECT_EQ(refusal_of_header(entry("U8", "[4294967296,4294967296]", "[0,0]"), ""), bytes);
  EXPECT_EQ(refusal_of_header(entry("U8", "[4]", "[0,4]"), "123"),
            whole + "its tensors take 4 of 3 bytes");
  EXPECT_EQ(refusal_of_header(entry("U8", "[4]", "[0,4]"), "12345"),
            whole + "its tensors take 4 of 5 bytes");
  EXPECT_EQ(refusal_of_header(entry("U8", "[-1]", "[0,4]"), "1234"),
            whole + "the entry of a has a size that is none");
  EXPECT_EQ(refusal_of_header(entry("U64", "[4]", "[0,32]"), "1234"),
            "FILE: a has the dtype U64, which no model of torchquant has");
  EXPECT_EQ(refusal_of_header("{\"\xff\":1}", ""),
            whole + "its header is invalid JSON: expected a character of UTF-8 at byte 2");
  EXPECT_EQ(refusal_of_header("[]", ""), whole + "its header is no JSON object");
  EXPECT_EQ(refusal_of_header("{", ""),
            whole + "its header is invalid JSON: expected a key at byte 1");
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
  EXPECT_THROW(torchquant::save_quantized(example(), path + "/none/model"), c10::Error);
  EXPECT_THROW(torchquant::save_quantized(example(), "/dev/null"), c10::Error);
  EXPECT_THROW(torchquant::save_quantized(example(), testing::TempDir()), c10::Error);
  const std::string link = path_of("link");
  std::filesystem::create_symlink(path, link);
  torchquant::save_quantized(example(), link);
  EXPECT_TRUE(std::filesystem::is_symlink(link));
  EXPECT_NE(read_file(path), bytes);
}

}  // namespace
