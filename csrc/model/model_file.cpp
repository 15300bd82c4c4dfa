// The file of a quantized model: docs/deployment.md has the format, torchquant/model_file.py is its
// other reader. What the header says of a layer is held against its tensors, and they against each
// other.
#include <ATen/ATen.h>

#include <array>
#include <cmath>
#include <tuple>
#include <type_traits>
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
constexpr const char* kRemedy = "quantize the float model again";
constexpr int64_t kMostFeatures = INT32_MAX;
constexpr int64_t kMostInt8Inputs = 65'793;  // above it sums of uint8 x int8 may not fit int32

using Dtype = std::optional<at::ScalarType>;

constexpr std::array kOutputDtypes{at::kFloat, at::kHalf, at::kBFloat16, at::kByte, at::kChar};

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

std::string form_name(at::ScalarType dtype, at::IntArrayRef shape) {
  return c10::str(dtype_name(dtype), " ", shape);
}

std::string shown_entry(const json::Object& entries, const std::string& key) {
  const auto found = entries.find(key);
  return found == entries.end() ? "missing" : json::shown(found->second);
}

// The entry of a layer in the header, each value checked as it is taken.
class Entry {
 public:
  Entry(std::string where, const json::Value& value) : where_(std::move(where)) {
    const auto* object = value.get<json::Object>();
    TORCH_CHECK_VALUE(object != nullptr, where_, " must be a JSON object, but is ",
                      json::shown(value));
    entries_ = *object;
  }

  std::pair<QuantizedLinear, Parts> layer() {
    QuantizedLinear layer;
    Parts parts{};
    layer.scheme = one_of("scheme", {"dynamic", "static", "weight_only"},
                          "\"dynamic\", \"static\" or \"weight_only\"");
    layer.in_features = count("in_features");
    layer.out_features = count("out_features");
    parts.bias = boolean("bias");
    layer.activation = one_of("activation", {"none", "relu"}, "\"none\" or \"relu\"");
    layer.weight_snr_db = snr("weight_snr_db");
    if (layer.scheme == "static") {
      parts.requantize = boolean("requantize");
      layer.output_dtype = output_dtype("output_dtype");
    }
    TORCH_CHECK_VALUE(entries_.empty(), where_, " has the unknown entry ",
                      entries_.empty() ? "" : json::printable(entries_.begin()->first));
    check(layer, parts);
    return {std::move(layer), parts};
  }

 private:
  // That entries go together.
  void check(const QuantizedLinear& layer, Parts parts) const {
    TORCH_CHECK_VALUE(!layer.output_dtype || parts.requantize == is_code(layer.output_dtype),
                      where_,
                      ": output_dtype must be float without requantize and uint8 or int8 with it, "
                      "but is ",
                      dtype_name(layer.output_dtype.value_or(at::kFloat)));
    TORCH_CHECK_VALUE(layer.scheme == "weight_only" || layer.in_features <= kMostInt8Inputs, where_,
                      ": in_features must be at most ", kMostInt8Inputs,
                      " in a layer that multiplies in int8, or its sums may overflow, but is ",
                      layer.in_features);
  }

  json::Value take(const std::string& key, const char* wanted) {
    const auto found = entries_.extract(key);
    TORCH_CHECK_VALUE(!found.empty(), where_, ": ", key, " must be ", wanted, ", but is missing");
    return found.mapped();
  }

  [[noreturn]] void refuse(const std::string& key, const json::Value& value, const char* wanted) {
    TORCH_CHECK_VALUE(false, where_, ": ", key, " must be ", wanted, ", but is ",
                      json::shown(value));
  }

  std::string one_of(const std::string& key, std::initializer_list<const char*> choices,
                     const char* wanted) {
    const json::Value value = take(key, wanted);
    const auto* text = value.get<std::string>();
    for (const char* choice : choices) {
      if (text != nullptr && *text == choice) return choice;
    }
    refuse(key, value, wanted);
  }

  int64_t count(const std::string& key) {
    constexpr const char* kWanted = "a number of features";
    const json::Value value = take(key, kWanted);
    const auto* number = value.get<int64_t>();
    if (number == nullptr || *number < 0 || *number > kMostFeatures) refuse(key, value, kWanted);
    return *number;
  }

  bool boolean(const std::string& key) {
    constexpr const char* kWanted = "true or false";
    const json::Value value = take(key, kWanted);
    const auto* boolean = value.get<bool>();
    if (boolean == nullptr) refuse(key, value, kWanted);
    return *boolean;
  }

  std::optional<double> snr(const std::string& key) {
    constexpr const char* kWanted = "a number of dB, \"inf\" or null";
    const json::Value value = take(key, kWanted);
    if (value.is_null()) return std::nullopt;
    if (const auto* text = value.get<std::string>(); text != nullptr && *text == "inf") {
      return INFINITY;
    }
    if (const auto* integer = value.get<int64_t>()) return static_cast<double>(*integer);
    if (const auto* number = value.get<double>()) return *number;
    refuse(key, value, kWanted);
  }

  Dtype output_dtype(const std::string& key) {
    constexpr const char* kWanted = "null or one of float32, float16, bfloat16, uint8, int8";
    const json::Value value = take(key, kWanted);
    if (value.is_null()) return std::nullopt;
    const auto* text = value.get<std::string>();
    for (const at::ScalarType dtype : kOutputDtypes) {
      if (text != nullptr && *text == dtype_name(dtype)) return dtype;
    }
    refuse(key, value, kWanted);
  }

  std::string where_;
  json::Object entries_;
};

json::Value parsed(const std::string& path, const std::string& text) {
  try {
    return json::parse(text);
  } catch (const c10::Error& error) {
    TORCH_CHECK_VALUE(false, path, ": its metadata is ", error.what_without_backtrace(),
                      ": pass a file that torchquant wrote");
  }
}

template <class T>
bool is(const json::Object& header, const char* key, const T& wanted) {
  using Kind = std::conditional_t<std::is_integral_v<T>, int64_t, std::string>;
  const auto found = header.find(key);
  const auto* value = found == header.end() ? nullptr : found->second.get<Kind>();
  return value != nullptr && *value == wanted;
}

// Our header in a file's metadata, or an error where it is of another kind or version.
json::Object header_of(const std::string& path,
                       const std::map<std::string, std::string>& metadata) {
  const auto found = metadata.find(kKey);
  const json::Value value = found == metadata.end() ? nullptr : parsed(path, found->second);
  const auto* object = value.get<json::Object>();
  const json::Object header = object == nullptr ? json::Object() : *object;
  TORCH_CHECK_VALUE(is(header, "format", kFormat), path,
                    " must hold a quantized model, but its format is ",
                    shown_entry(header, "format"), ": pass what torchquant.save_quantized wrote");
  TORCH_CHECK_VALUE(is(header, "version", kVersion), path, " must have version ", kVersion,
                    ", but its version is ", shown_entry(header, "version"),
                    " (written by torchquant ", shown_entry(header, "torchquant"),
                    "): install a newer torchquant, or ", kRemedy);
  return header;
}

// What a file holds, its parts held against each other. Messages do without the path.
class Loading {
 public:
  Loading(const json::Object& header, std::map<std::string, at::Tensor> tensors)
      : header_(header), tensors_(std::move(tensors)) {}

  QuantizedModel run() {
    check_header();
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
  void check_header() const {
    const auto writer = header_.find("torchquant");
    TORCH_CHECK_VALUE(writer != header_.end() && writer->second.get<std::string>() != nullptr,
                      "torchquant must be a text, but is ", shown_entry(header_, "torchquant"));
    for (const auto& [key, value] : header_) {
      const bool is_known = key == "format" || key == "version" || key == "torchquant" ||
                            key == "layers" || key == "aliases";
      TORCH_CHECK_VALUE(is_known, "its header has the unknown entry ", json::printable(key));
    }
  }

  const json::Object& object(const char* key) const {
    const auto found = header_.find(key);
    const auto* object = found == header_.end() ? nullptr : found->second.get<json::Object>();
    TORCH_CHECK_VALUE(object != nullptr, key, " must be a JSON object, but is ",
                      shown_entry(header_, key));
    return *object;
  }

  void add_aliases() {
    std::map<std::string, at::Tensor> aliases;
    for (const auto& [alias, value] : object("aliases")) {
      const auto* key = value.get<std::string>();
      TORCH_CHECK_VALUE(!tensors_.count(alias) && key != nullptr && tensors_.count(*key),
                        "the alias '", json::printable(alias),
                        "' must be of a stored tensor, and none itself, but stands for ",
                        json::shown(value));
      aliases.emplace(alias, tensors_.at(*key));
    }
    tensors_.merge(aliases);
  }

  QuantizedLinear layer(const std::string& name, const json::Value& value) {
    auto [layer, parts] = Entry("layer '" + json::printable(name) + "'", value).layer();
    for (Slot& slot : slots(layer, parts)) {
      const std::string key = key_of(name, slot.name), shown = json::printable(key);
      auto found = tensors_.extract(key);
      TORCH_CHECK_VALUE(!found.empty(), shown, " is missing, but must be ",
                        form_name(slot.dtype, slot.shape));
      const at::Tensor& tensor = found.mapped();
      TORCH_CHECK_VALUE(tensor.scalar_type() == slot.dtype && tensor.sizes() == slot.shape, shown,
                        " must be ", form_name(slot.dtype, slot.shape), ", but is ",
                        form_name(tensor.scalar_type(), tensor.sizes()));
      *slot.tensor = tensor;
    }
    check_values(name, layer);
    check_weight(name, layer);
    return std::move(layer);
  }

  static void check_values(const std::string& name, const QuantizedLinear& layer) {
    const auto shown = [&](const char* tensor) { return json::printable(key_of(name, tensor)); };
    check_scale(shown("weight_scale"), layer.weight_scale);
    if (layer.input_scale) {
      check_scale(shown("input_scale"), *layer.input_scale);
      check_zero_point(shown("input_zero_point"), *layer.input_zero_point, at::kByte);
    }
    if (layer.output_scale) {
      check_scale(shown("output_scale"), *layer.output_scale);
      check_zero_point(shown("output_zero_point"), *layer.output_zero_point,
                       layer.output_dtype.value_or(at::kByte));
    }
  }

  static void check_scale(const std::string& shown, const at::Tensor& scale) {
    const at::Tensor wrong = scale.masked_select(((scale > 0) & scale.isfinite()).logical_not());
    if (wrong.numel() == 0) return;
    const float value = wrong[0].item<float>();
    TORCH_CHECK_VALUE(false, shown, " must be positive and finite, but has ",
                      std::isnan(value) ? "nan" : c10::str(value));
  }

  static void check_zero_point(const std::string& shown, const at::Tensor& tensor,
                               at::ScalarType codes) {
    const int least = codes == at::kChar ? -128 : 0, zero_point = tensor.item<int>();
    TORCH_CHECK_VALUE(zero_point >= least && zero_point <= least + 255, shown, " must lie in [",
                      least, ", ", least + 255, "], but is ", zero_point);
  }

  static void check_weight(const std::string& name, const QuantizedLinear& layer) {
    const auto shown = [&](const char* tensor) { return json::printable(key_of(name, tensor)); };
    const at::Tensor codes =
        unpack_weight(layer.packed_weight, layer.out_features, layer.in_features);
    TORCH_CHECK_VALUE(pack_weight(codes).equal(layer.packed_weight), shown("packed_weight"),
                      " must be zero in its padding");
    TORCH_CHECK_VALUE(codes.sum(1, false, at::kInt).equal(layer.weight_sum), shown("weight_sum"),
                      " must be the row sums of the weight, so one of the two was damaged");
  }

  // A bias that its layer does not know of, say, would be left out of the result silently.
  static void check_nothing_strange(const QuantizedModel& model) {
    for (const auto& [key, tensor] : model.tensors) {
      const std::size_t dot = key.rfind('.');
      const std::string owner = dot == std::string::npos ? "" : key.substr(0, dot);
      TORCH_CHECK_VALUE(!model.layers.count(owner), "layer '", json::printable(owner),
                        "' does not have the tensor ", json::printable(key), ", but the file has");
    }
  }

  const json::Object& header_;
  std::map<std::string, at::Tensor> tensors_;
};

// What has no word in the format goes by its name, which the check before writing refuses.
json::Value snr_value(const std::optional<double>& snr_db) {
  if (!snr_db) return nullptr;
  if (!std::isfinite(*snr_db)) return c10::str(*snr_db);
  return *snr_db;
}

json::Value dtype_value(const Dtype& dtype) {
  if (!dtype) return nullptr;
  return dtype_name(*dtype);
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

// The model, or an error with the path before it and the repair behind.
QuantizedModel loaded(const std::string& path, Safetensors contents, const char* repair) {
  const json::Object header = header_of(path, contents.metadata);
  try {
    return Loading(header, std::move(contents.tensors)).run();
  } catch (const c10::Error& error) {
    TORCH_CHECK_VALUE(false, path, ": ", error.what_without_backtrace(), ": ", repair);
  }
}

}  // namespace

void save_quantized(const QuantizedModel& model, const std::string& path) {
  const Safetensors contents = Saving().run(model);
  loaded(path, contents, "nothing was written");  // what could not be loaded is not
  write_safetensors(path, contents);
}

QuantizedModel load_quantized(const std::string& path) {
  return loaded(path, read_safetensors(path), kRemedy);
}

}  // namespace torchquant
