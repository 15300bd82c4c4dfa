// Eight bytes with the length of the header, the header in JSON, and the bytes of all tensors.
#include "safetensors.h"

#include <ATen/Functions.h>
#include <c10/util/Exception.h>
#include <c10/util/safe_numerics.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "json.h"
#include "new_file.h"

namespace torchquant {
namespace {

constexpr uint64_t kMaxHeader = 100'000'000;  // as the reference implementation has it
constexpr uint64_t kAlignment = 8;
constexpr const char* kMetadata = "__metadata__";

constexpr std::size_t kMostDimensions = 64;  // PyTorch's limit
constexpr const char* kRemedy = ": pass what torchquant.save_quantized wrote";

struct Dtype {
  std::string_view name;
  at::ScalarType dtype;
  const char* name_in_python;
};

// In the order of tensors in a file, the reference implementation's: the widest first, so that each
// lies at a multiple of its element's size.
constexpr std::array<Dtype, 10> kDtypes{{
    {"I64", at::kLong, "int64"},
    {"F64", at::kDouble, "float64"},
    {"F32", at::kFloat, "float32"},
    {"I32", at::kInt, "int32"},
    {"BF16", at::kBFloat16, "bfloat16"},
    {"F16", at::kHalf, "float16"},
    {"I16", at::kShort, "int16"},
    {"I8", at::kChar, "int8"},
    {"U8", at::kByte, "uint8"},
    {"BOOL", at::kBool, "bool"},
}};

struct Entry {
  std::string name;
  at::ScalarType dtype;
  std::vector<int64_t> shape;
  uint64_t begin, end;
};

class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path) {
    std::error_code error;
    const auto kind = std::filesystem::status(path, error).type();
    TORCH_CHECK_VALUE(kind != std::filesystem::file_type::not_found, path, " does not exist",
                      kRemedy);
    check_readable(kind != std::filesystem::file_type::none, error);
    check(kind == std::filesystem::file_type::regular, "it is a folder, a device or a pipe");
    size_ = std::filesystem::file_size(path, error);
    check_readable(!error, error);
    errno = 0;
    file_.open(path, std::ios::binary);
    check_readable(file_.is_open(), {errno, std::generic_category()});
  }

  Safetensors read() {
    const json::Value header = parse_header();
    const auto* entries = header.get<json::Object>();
    check(entries != nullptr, "its header is no JSON object");
    Safetensors contents;
    std::vector<Entry> tensors;
    for (const auto& [name, value] : *entries) {
      if (name == kMetadata) {
        contents.metadata = read_metadata(value);
      } else {
        tensors.push_back(read_entry(name, value));
      }
    }
    check_layout(tensors);
    for (const Entry& entry : tensors) contents.tensors.emplace(entry.name, read_tensor(entry));
    return contents;
  }

 private:
  template <class... Parts>
  void check(bool holds, const Parts&... what) const {
    TORCH_CHECK_VALUE(holds, path_, " is no whole safetensors file (", what..., ")", kRemedy);
  }

  void check_readable(bool holds, const std::error_code& error) const {
    TORCH_CHECK_VALUE(holds, path_, " cannot be read (", error.message(), ")", kRemedy);
  }

  void read_bytes(void* to, uint64_t count) {
    file_.read(static_cast<char*>(to), static_cast<std::streamsize>(count));
    check(static_cast<bool>(file_), "it cannot be read to its end");
  }

  json::Value parse_header() {
    std::array<unsigned char, 8> bytes{};
    check(size_ >= bytes.size(), "it has ", size_, " bytes");
    read_bytes(bytes.data(), bytes.size());
    uint64_t length = 0;
    for (std::size_t i = bytes.size(); i-- > 0;) length = length << 8 | bytes[i];
    check(length <= kMaxHeader && length <= size_ - bytes.size(), "its header would have ", length,
          " of its ", size_, " bytes");
    std::string text(length, '\0');
    read_bytes(text.data(), length);
    data_ = bytes.size() + length;
    try {
      return json::parse(text);
    } catch (const c10::Error& error) {
      check(false, "its header is ", error.what_without_backtrace());
      throw;
    }
  }

  std::map<std::string, std::string> read_metadata(const json::Value& value) const {
    const auto* object = value.get<json::Object>();
    check(object != nullptr, "its metadata is no JSON object");
    std::map<std::string, std::string> metadata;
    for (const auto& [key, text] : *object) {
      const auto* string = text.get<std::string>();
      check(string != nullptr, "its metadata ", json::printable(key), " is no text");
      metadata.emplace(key, *string);
    }
    return metadata;
  }

  Entry read_entry(const std::string& name, const json::Value& value) const {
    const std::string shown = json::printable(name);
    const auto* object = value.get<json::Object>();
    check(object != nullptr && object->size() == 3 && object->count("dtype") &&
              object->count("shape") && object->count("data_offsets"),
          "the entry of ", shown, " must have dtype, shape and data_offsets alone");
    const std::vector<int64_t> offsets = read_sizes(shown, object->at("data_offsets"));
    check(offsets.size() == 2, "the data_offsets of ", shown, " must be two");
    const std::vector<int64_t> shape = read_sizes(shown, object->at("shape"));
    check(shape.size() <= kMostDimensions && has_extent(shape), shown,
          " has a shape that no tensor has: ", json::shown(object->at("shape")));
    return {name, read_dtype(shown, object->at("dtype")), shape, static_cast<uint64_t>(offsets[0]),
            static_cast<uint64_t>(offsets[1])};
  }

  // The strides of an empty tensor are products of its sizes too.
  static bool has_extent(const std::vector<int64_t>& shape) {
    constexpr int64_t kMost = int64_t{1} << 60;
    int64_t extent = 1;
    bool overflows = false;
    for (const int64_t size : shape) {
      overflows |= c10::mul_overflows(extent, std::max<int64_t>(size, 1), &extent);
      overflows |= extent > kMost;
    }
    return !overflows;
  }

  at::ScalarType read_dtype(const std::string& shown, const json::Value& value) const {
    const auto* text = value.get<std::string>();
    check(text != nullptr, "the dtype of ", shown, " is no text");
    for (const Dtype& dtype : kDtypes) {
      if (*text == dtype.name) return dtype.dtype;
    }
    TORCH_CHECK_VALUE(false, path_, ": ", shown, " has the dtype ", json::printable(*text),
                      ", which no model of torchquant has: quantize the float model again");
  }

  std::vector<int64_t> read_sizes(const std::string& shown, const json::Value& value) const {
    const auto* array = value.get<json::Array>();
    check(array != nullptr, "the entry of ", shown, " has no list where one must be");
    std::vector<int64_t> sizes;
    for (const json::Value& element : *array) {
      const auto* size = element.get<int64_t>();
      check(size != nullptr && *size >= 0, "the entry of ", shown, " has a size that is none");
      sizes.push_back(*size);
    }
    return sizes;
  }

  // One tensor after the other, no byte twice and none left over.
  void check_layout(std::vector<Entry>& tensors) const {
    std::sort(tensors.begin(), tensors.end(), [](const Entry& one, const Entry& other) {
      return std::pair(one.begin, one.end) < std::pair(other.begin, other.end);
    });
    uint64_t end = 0;
    for (const Entry& entry : tensors) {
      uint64_t bytes = c10::elementSize(entry.dtype);
      bool overflows = false;
      for (const int64_t size : entry.shape) {
        overflows |= c10::mul_overflows(bytes, static_cast<uint64_t>(size), &bytes);
      }
      check(!overflows && entry.begin == end && entry.end >= end && entry.end - end == bytes,
            json::printable(entry.name), " does not take the bytes of its shape");
      end = entry.end;
    }
    check(end == size_ - data_, "its tensors take ", end, " of ", size_ - data_, " bytes");
  }

  at::Tensor read_tensor(const Entry& entry) {
    const at::Tensor tensor = at::empty(entry.shape, entry.dtype);
    if (tensor.numel() == 0) return tensor;
    file_.seekg(static_cast<std::streamoff>(data_ + entry.begin));
    read_bytes(tensor.data_ptr(), entry.end - entry.begin);
    return tensor;
  }

  std::string path_;
  std::ifstream file_;
  uint64_t size_ = 0, data_ = 0;
};

struct Stored {
  std::string name;
  at::Tensor tensor;
  const Dtype* dtype;
};

const Dtype* dtype_of(const std::string& name, const at::Tensor& tensor) {
  for (const Dtype& dtype : kDtypes) {
    if (tensor.scalar_type() == dtype.dtype) return &dtype;
  }
  TORCH_CHECK_VALUE(false, name, " must be of a dtype of safetensors, but is ",
                    tensor.scalar_type());
}

// By dtype, then by name.
std::vector<Stored> in_order(const std::map<std::string, at::Tensor>& tensors) {
  std::vector<Stored> stored;
  for (const auto& [name, tensor] : tensors) {
    stored.push_back({name, tensor, dtype_of(name, tensor)});
  }
  std::stable_sort(stored.begin(), stored.end(),
                   [](const Stored& one, const Stored& other) { return one.dtype < other.dtype; });
  return stored;
}

std::string header_of(const std::vector<Stored>& tensors,
                      const std::map<std::string, std::string>& metadata) {
  json::Object header{{kMetadata, json::Object(metadata.begin(), metadata.end())}};
  int64_t begin = 0;
  for (const auto& [name, tensor, dtype] : tensors) {
    const int64_t end = begin + static_cast<int64_t>(tensor.nbytes());
    const json::Array shape(tensor.sizes().begin(), tensor.sizes().end());
    const json::Object entry{{"dtype", std::string(dtype->name)},
                             {"shape", shape},
                             {"data_offsets", json::Array{begin, end}}};
    TORCH_CHECK_VALUE(header.emplace(name, entry).second, name,
                      " must be another name, as safetensors keeps it for what is no tensor");
    begin = end;
  }
  std::string text = json::to_text(header);
  text.append((kAlignment - text.size() % kAlignment) % kAlignment, ' ');
  TORCH_CHECK_VALUE(text.size() <= kMaxHeader, "the header must have at most ", kMaxHeader,
                    " bytes, or no reader takes it, but has ", text.size());
  json::check_amount(text);
  return text;
}

void write_all(NewFile& file, const Safetensors& contents) {
  const std::vector<Stored> tensors = in_order(contents.tensors);
  const std::string header = header_of(tensors, contents.metadata);
  std::array<unsigned char, 8> length{};
  for (std::size_t i = 0; i < length.size(); ++i) {
    length[i] = static_cast<unsigned char>(header.size() >> (8 * i));
  }
  file.write(length.data(), length.size());
  file.write(header.data(), header.size());
  for (const Stored& stored : tensors) {
    // The bytes of a view that negates are those of its values only once it is resolved.
    const at::Tensor whole = stored.tensor.resolve_neg().cpu().contiguous();
    file.write(whole.const_data_ptr(), whole.nbytes());
  }
}

}  // namespace

Safetensors read_safetensors(const std::string& path) { return Reader(path).read(); }

void write_safetensors(const std::string& path, const Safetensors& contents) {
  NewFile file(path);
  write_all(file, contents);
  file.take_place();
}

std::string dtype_name(at::ScalarType dtype) {
  for (const Dtype& known : kDtypes) {
    if (known.dtype == dtype) return known.name_in_python;
  }
  return c10::toString(dtype);
}

}  // namespace torchquant
