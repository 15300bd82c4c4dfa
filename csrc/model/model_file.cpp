// The file of a quantized model: docs/deployment.md has the format, torchquant/model_file.py is its
// other reader. What the header says of a layer is held against its tensors, and they against each
// other.
#include <ATen/ATen.h>

#include <array>
#include <cmath>
#include <tuple>
#include <utility>
#include <vector>

#include "json.h"
#include "safetensors.h"
#include "torchquant.h"

namespace torchquant {
namespace {

constexpr const char* kKey = "torchquant";
constexpr const char* kFormat = "torchquant.model";
constexpr int64_t kVersion = 1;

using Dtype = std::optional<at::ScalarType>;

const std::array<std::pair<const char*, Dtype>, 5> kOutputDtypes{{
    {"float32", at::kFloat},
    {"float16", at::kHalf},
    {"bfloat16", at::kBFloat16},
    {"uint8", at::kByte},
    {"int8", at::kChar},
}};

bool is_code(const Dtype& dtype) { return dtype == at::kByte || dtype == at::kChar; }

std::string key_of(const std::string& layer, const std::string& tensor) {
  return layer.empty() ? tensor : layer + "." + tensor;
}

// What a layer's tensors must be, by their names in it: where the layer keeps it, and its form.
struct Slot {
  std::string name;
  at::Tensor* tensor;
  at::ScalarType dtype;
  std::vector<int64_t> shape;
};

at::Tensor* made(std::optional<at::Tensor>& tensor) {
  if (!tensor) tensor.emplace();
  return &*tensor;
}

struct Parts {
  bool bias, requantize;
};

// The parts that are optional are made.
std::vector<Slot> slots(QuantizedLinear& layer, Parts parts) {
  const int64_t outputs = layer.out_features, inputs = layer.in_features;
  const std::vector<int64_t> packed{outputs / 16 + (outputs % 16 > 0),
                                    inputs / 4 + (inputs % 4 > 0), 16, 4};
  std::vector<Slot> found{{"packed_weight", &layer.packed_weight, at::kChar, packed},
                          {"weight_scale", &layer.weight_scale, at::kFloat, {outputs}},
                          {"weight_sum", &layer.weight_sum, at::kInt, {outputs}}};
  if (parts.bias) found.push_back({"bias", made(layer.bias), at::kFloat, {outputs}});
  if (layer.scheme == "static") {
    found.push_back({"input_scale", made(layer.input_scale), at::kFloat, {}});
    found.push_back({"input_zero_point", made(layer.input_zero_point), at::kInt, {}});
  }
  if (parts.requantize) {
    found.push_back({"output_scale", made(layer.output_scale), at::kFloat, {}});
    found.push_back({"output_zero_point", made(layer.output_zero_point), at::kInt, {}});
  }
  return found;
}

// The entry of a layer in the header, each value checked as it is taken.
class Entry {
 public:
  Entry(std::string where, const json::Value& value) : where_(std::move(where)) {
    const auto* object = value.get<json::Object>();
    TORCH_CHECK_VALUE(object != nullptr, where_, " must be a JSON object");
    entries_ = *object;
  }

  std::pair<QuantizedLinear, Parts> layer() {
    QuantizedLinear layer;
    Parts parts{};
    layer.scheme = one_of("scheme", {"dynamic", "static", "weight_only"});
    layer.in_features = count("in_features");
    layer.out_features = count("out_features");
    parts.bias = boolean("bias");
    layer.activation = one_of("activation", {"none", "relu"});
    layer.weight_snr_db = snr("weight_snr_db");
    if (layer.scheme == "static") {
      parts.requantize = boolean("requantize");
      layer.output_dtype = output_dtype("output_dtype");
      TORCH_CHECK_VALUE(!layer.output_dtype || parts.requantize == is_code(layer.output_dtype),
                        where_,
                        ": output_dtype must be float without requantize and uint8 or "
                        "int8 with it, but is ",
                        *layer.output_dtype);
    }
    TORCH_CHECK_VALUE(entries_.empty(), where_, " has the unknown entry ",
                      entries_.empty() ? std::string() : entries_.begin()->first);
    return {std::move(layer), parts};
  }

 private:
  json::Value take(const std::string& key) {
    const auto found = entries_.extract(key);
    TORCH_CHECK_VALUE(!found.empty(), where_, ": ", key, " is missing");
    return found.mapped();
  }

  [[noreturn]] void refuse(const std::string& key, const json::Value& value, const char* wanted) {
    TORCH_CHECK_VALUE(false, where_, ": ", key, " must be ", wanted, ", but is ",
                      json::to_text(value));
  }

  std::string one_of(const std::string& key, std::initializer_list<const char*> choices) {
    const json::Value value = take(key);
    const auto* text = value.get<std::string>();
    for (const char* choice : choices) {
      if (text != nullptr && *text == choice) return choice;
    }
    refuse(key, value, key == "scheme" ? "dynamic, static or weight_only" : "none or relu");
  }

  int64_t count(const std::string& key) {
    const json::Value value = take(key);
    const auto* number = value.get<int64_t>();
    if (number == nullptr || *number < 0) refuse(key, value, "a number of features");
    return *number;
  }

  bool boolean(const std::string& key) {
    const json::Value value = take(key);
    const auto* boolean = value.get<bool>();
    if (boolean == nullptr) refuse(key, value, "true or false");
    return *boolean;
  }

  std::optional<double> snr(const std::string& key) {
    const json::Value value = take(key);
    if (value.is_null()) return std::nullopt;
    if (const auto* text = value.get<std::string>(); text != nullptr && *text == "inf") {
      return INFINITY;
    }
    if (const auto* integer = value.get<int64_t>()) return static_cast<double>(*integer);
    if (const auto* number = value.get<double>()) return *number;
    refuse(key, value, "a number of dB, \"inf\" or null");
  }

  Dtype output_dtype(const std::string& key) {
    const json::Value value = take(key);
    if (value.is_null()) return std::nullopt;
    const auto* text = value.get<std::string>();
    for (const auto& [name, dtype] : kOutputDtypes) {
      if (text != nullptr && *text == name) return dtype;
    }
    refuse(key, value, "null or one of float32, float16, bfloat16, uint8, int8");
  }

  std::string where_;
  json::Object entries_;
};

class Loading {
 public:
  Loading(const std::string& path, const Safetensors& contents)
      : path_(path), tensors_(contents.tensors), header_(header_of(contents.metadata)) {}

  QuantizedModel run() {
    add_aliases();
    QuantizedModel model;
    for (const auto& [name, value] : object("layers")) {
      model.layers.emplace(name, layer(name, value));
    }
    model.tensors = std::move(tensors_);
    check_nothing_strange(model);
    return model;
  }

 private:
  json::Value parse(const std::string& text) const {
    try {
      return json::parse(text);
    } catch (const c10::Error& error) {
      TORCH_CHECK_VALUE(false, path_, ": its metadata is ", error.what_without_backtrace());
    }
  }

  json::Object header_of(const std::map<std::string, std::string>& metadata) const {
    const auto found = metadata.find(kKey);
    const json::Value value = found == metadata.end() ? nullptr : parse(found->second);
    const auto* header = value.get<json::Object>();
    const auto entry = [&](const char* key) -> const json::Value* {
      return header != nullptr && header->count(key) ? &header->at(key) : nullptr;
    };
    const auto* format = entry("format") ? entry("format")->get<std::string>() : nullptr;
    TORCH_CHECK_VALUE(format != nullptr && *format == kFormat, path_,
                      " must hold a quantized model, but its metadata says otherwise: pass what "
                      "save_quantized wrote");
    const auto* version = entry("version") ? entry("version")->get<int64_t>() : nullptr;
    const auto text = [&](const char* key) {
      return entry(key) ? json::to_text(*entry(key)) : std::string("none");
    };
    TORCH_CHECK_VALUE(version != nullptr && *version == kVersion, path_, " must have version ",
                      kVersion, ", but has ", text("version"), " (written by torchquant ",
                      text("torchquant"),
                      "): install a newer torchquant, or quantize the float model again");
    return *header;
  }

  const json::Object& object(const char* key) const {
    const auto found = header_.find(key);
    const auto* object = found == header_.end() ? nullptr : found->second.get<json::Object>();
    TORCH_CHECK_VALUE(object != nullptr, path_, ": ", key, " must be a JSON object");
    return *object;
  }

  void add_aliases() {
    std::map<std::string, at::Tensor> aliases;
    for (const auto& [alias, value] : object("aliases")) {
      const auto* key = value.get<std::string>();
      TORCH_CHECK_VALUE(!tensors_.count(alias) && key != nullptr && tensors_.count(*key), path_,
                        ": the alias ", alias,
                        " must be of a stored tensor, and none itself, but stands for ",
                        json::to_text(value));
      aliases.emplace(alias, tensors_.at(*key));
    }
    tensors_.merge(aliases);
  }

  QuantizedLinear layer(const std::string& name, const json::Value& value) {
    auto [layer, parts] = Entry(path_ + ": layer '" + name + "'", value).layer();
    for (Slot& slot : slots(layer, parts)) {
      const std::string key = key_of(name, slot.name);
      auto found = tensors_.extract(key);
      TORCH_CHECK_VALUE(!found.empty(), path_, " lacks ", key, ", which must be ", slot.dtype, " ",
                        c10::IntArrayRef(slot.shape));
      const at::Tensor& tensor = found.mapped();
      TORCH_CHECK_VALUE(tensor.scalar_type() == slot.dtype && tensor.sizes() == slot.shape, path_,
                        ": ", key, " must be ", slot.dtype, " ", c10::IntArrayRef(slot.shape),
                        ", but is ", tensor.scalar_type(), " ", tensor.sizes());
      *slot.tensor = tensor;
      check_values(key, slot.name, tensor, layer);
    }
    check_weight(name, layer);
    return std::move(layer);
  }

  void check_values(const std::string& key, const std::string& name, const at::Tensor& tensor,
                    const QuantizedLinear& layer) const {
    if (name == "weight_scale" || name == "input_scale" || name == "output_scale") {
      TORCH_CHECK_VALUE(((tensor > 0) & tensor.isfinite()).all().item<bool>(), path_, ": ", key,
                        " must be positive and finite");
    } else if (name == "input_zero_point" || name == "output_zero_point") {
      const bool is_signed = name == "output_zero_point" && layer.output_dtype == at::kChar;
      const int least = is_signed ? -128 : 0, most = is_signed ? 127 : 255;
      const int zero_point = tensor.item<int>();
      TORCH_CHECK_VALUE(zero_point >= least && zero_point <= most, path_, ": ", key,
                        " must lie in [", least, ", ", most, "], but is ", zero_point);
    }
  }

  void check_weight(const std::string& name, const QuantizedLinear& layer) const {
    const at::Tensor codes =
        unpack_weight(layer.packed_weight, layer.out_features, layer.in_features);
    TORCH_CHECK_VALUE(pack_weight(codes).equal(layer.packed_weight), path_, ": ",
                      key_of(name, "packed_weight"), " must be zero in its padding");
    TORCH_CHECK_VALUE(codes.sum(1, false, at::kInt).equal(layer.weight_sum), path_, ": ",
                      key_of(name, "weight_sum"),
                      " must be the row sums of the weight, so one of the two was damaged");
  }

  // A bias that its layer does not know of, say, would be left out of the result silently.
  void check_nothing_strange(const QuantizedModel& model) const {
    for (const auto& [key, tensor] : model.tensors) {
      const std::size_t dot = key.rfind('.');
      const std::string owner = dot == std::string::npos ? "" : key.substr(0, dot);
      TORCH_CHECK_VALUE(!model.layers.count(owner), path_, ": layer '", owner,
                        "' does not have the tensor ", key, ", but the file has");
    }
  }

  std::string path_;
  std::map<std::string, at::Tensor> tensors_;
  json::Object header_;
};

// What has no word in the format goes by its name, which the check before writing refuses.
json::Value snr_value(const std::optional<double>& snr_db) {
  if (!snr_db) return nullptr;
  if (!std::isfinite(*snr_db)) return c10::str(*snr_db);
  return *snr_db;
}

json::Value dtype_value(const Dtype& dtype) {
  if (!dtype) return nullptr;
  for (const auto& [name, known] : kOutputDtypes) {
    if (dtype == known) return name;
  }
  return c10::toString(*dtype);
}

bool gives_codes(const QuantizedLinear& layer) {
  return layer.scheme == "static" && (layer.output_scale || layer.output_zero_point);
}

json::Object entry_of(const QuantizedLinear& layer) {
  json::Object entry{{"scheme", layer.scheme},
                     {"in_features", layer.in_features},
                     {"out_features", layer.out_features},
                     {"bias", layer.bias.has_value()},
                     {"activation", layer.activation},
                     {"weight_snr_db", snr_value(layer.weight_snr_db)}};
  if (layer.scheme == "static") {
    entry.emplace("requantize", gives_codes(layer));
    entry.emplace("output_dtype", dtype_value(layer.output_dtype));
  }
  return entry;
}

class Saving {
 public:
  Safetensors run(const QuantizedModel& model) {
    json::Object layers;
    for (const auto& [name, original] : model.layers) {
      QuantizedLinear layer = original;
      layers.emplace(name, entry_of(layer));
      for (const Slot& slot : slots(layer, {layer.bias.has_value(), gives_codes(layer)})) {
        add(key_of(name, slot.name), *slot.tensor);
      }
    }
    for (const auto& [key, tensor] : model.tensors) add(key, tensor);
    const json::Object header{{"format", kFormat},
                              {"version", kVersion},
                              {"torchquant", TORCHQUANT_VERSION},
                              {"layers", std::move(layers)},
                              {"aliases", std::move(aliases_)}};
    return {std::move(tensors_), {{kKey, json::to_text(header)}}};
  }

 private:
  // Equal for tensors that are the same memory in the same shape.
  using Identity =
      std::tuple<const void*, at::ScalarType, std::vector<int64_t>, std::vector<int64_t>>;

  void add(const std::string& key, const at::Tensor& tensor) {
    TORCH_CHECK_VALUE(tensor.defined() && tensor.layout() == at::kStrided && !tensor.is_meta(), key,
                      " must be a plain dense tensor with data, but is ",
                      tensor.defined() ? c10::str(tensor.layout(), " ", tensor.scalar_type(),
                                                  " on ", tensor.device())
                                       : std::string("undefined"));
    TORCH_CHECK_VALUE(!tensors_.count(key) && !aliases_.count(key), key,
                      " must be one tensor, but both a layer and tensors have it");
    const std::string first = first_of(key, tensor);
    if (first == key) {
      tensors_.emplace(key, tensor.detach().cpu());
    } else {
      aliases_.emplace(key, first);
    }
  }

  // The first key of what this tensor is.
  std::string first_of(const std::string& key, const at::Tensor& tensor) {
    if (tensor.numel() == 0) return key;  // no memory that could be another's
    const Identity identity{tensor.const_data_ptr(), tensor.scalar_type(), tensor.sizes().vec(),
                            tensor.strides().vec()};
    return first_.emplace(identity, key).first->second;
  }

  std::map<Identity, std::string> first_;
  std::map<std::string, at::Tensor> tensors_;
  json::Object aliases_;
};

}  // namespace

void save_quantized(const QuantizedModel& model, const std::string& path) {
  const Safetensors contents = Saving().run(model);
  Loading(path, contents).run();  // what could not be loaded is not written
  write_safetensors(path, contents);
}

QuantizedModel load_quantized(const std::string& path) {
  return Loading(path, read_safetensors(path)).run();
}

}  // namespace torchquant
