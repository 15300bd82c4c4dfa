// Eight bytes with the length of the header, the header in JSON, and the bytes of all tensors.
#include "safetensors.h"

#include <ATen/Functions.h>
#include <c10/util/Exception.h>
#include <c10/util/safe_numerics.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "json.h"

namespace torchquant {
namespace {

constexpr uint64_t kMaxHeader = 100'000'000;  // as the reference implementation has it
constexpr uint64_t kAlignment = 8;
constexpr const char* kMetadata = "__metadata__";

using Dtype = std::pair<std::string_view, at::ScalarType>;

// In the order of tensors in a file, the reference implementation's: the widest first, so that each
// lies at a multiple of its element's size.
constexpr std::array<Dtype, 10> kDtypes{{
    {"I64", at::kLong},
    {"F64", at::kDouble},
    {"F32", at::kFloat},
    {"I32", at::kInt},
    {"BF16", at::kBFloat16},
    {"F16", at::kHalf},
    {"I16", at::kShort},
    {"I8", at::kChar},
    {"U8", at::kByte},
    {"BOOL", at::kBool},
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
    if (std::filesystem::is_regular_file(path, error)) file_.open(path, std::ios::binary);
    TORCH_CHECK_VALUE(file_.is_open(), "cannot open ", path,
                      ": does it exist, and may you read it?");
    size_ = std::filesystem::file_size(path);
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
    TORCH_CHECK_VALUE(holds, path_, " is no whole safetensors file: ", what...);
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
      check(string != nullptr, "its metadata ", key, " is no text");
      metadata.emplace(key, *string);
    }
    return metadata;
  }

  Entry read_entry(const std::string& name, const json::Value& value) const {
    const auto* object = value.get<json::Object>();
    check(object != nullptr && object->size() == 3 && object->count("dtype") &&
              object->count("shape") && object->count("data_offsets"),
          "the entry of ", name, " must have dtype, shape and data_offsets");
    const std::vector<int64_t> offsets = read_sizes(name, object->at("data_offsets"));
    check(offsets.size() == 2, "the data_offsets of ", name, " must be two");
    return {name, read_dtype(name, object->at("dtype")), read_sizes(name, object->at("shape")),
            static_cast<uint64_t>(offsets[0]), static_cast<uint64_t>(offsets[1])};
  }

  at::ScalarType read_dtype(const std::string& name, const json::Value& value) const {
    const auto* text = value.get<std::string>();
    check(text != nullptr, "the dtype of ", name, " is no text");
    for (const auto& [dtype_name, dtype] : kDtypes) {
      if (*text == dtype_name) return dtype;
    }
    TORCH_CHECK_VALUE(false, path_, ": ", name, " has the dtype ", *text,
                      ", which no model of torchquant has");
  }

  std::vector<int64_t> read_sizes(const std::string& name, const json::Value& value) const {
    const auto* array = value.get<json::Array>();
    check(array != nullptr, "the entry of ", name, " has no list where one must be");
    std::vector<int64_t> sizes;
    for (const json::Value& element : *array) {
      const auto* size = element.get<int64_t>();
      check(size != nullptr && *size >= 0, "the entry of ", name, " has a size that is none");
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
            entry.name, " does not take the bytes of its shape");
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
    if (tensor.scalar_type() == dtype.second) return &dtype;
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
    const json::Object entry{{"dtype", std::string(dtype->first)},
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
  return text;
}

void write_all(std::ofstream& file, const Safetensors& contents) {
  const std::vector<Stored> tensors = in_order(contents.tensors);
  const std::string header = header_of(tensors, contents.metadata);
  for (int byte = 0; byte < 8; ++byte) file.put(static_cast<char>(header.size() >> (8 * byte)));
  file << header;
  for (const Stored& stored : tensors) {
    // The bytes of a view that negates are those of its values only once it is resolved.
    const at::Tensor whole = stored.tensor.resolve_neg().cpu().contiguous();
    file.write(static_cast<const char*>(whole.const_data_ptr()),
               static_cast<std::streamsize>(whole.nbytes()));
  }
}

// A file beside the one to write, gone at the end unless it has taken its place.
class Beside {
 public:
  explicit Beside(const std::string& path) : path_(std::filesystem::weakly_canonical(path)) {
    TORCH_CHECK(!std::filesystem::exists(path_) || std::filesystem::is_regular_file(path_), path,
                " must be a file, but is a folder, a device or a pipe: name a new file");
    std::string name = path_.filename().string();
    name.insert(0, 1, '.').append(1, '.').append(std::to_string(::getpid()));
    beside_ = path_.parent_path() / name;
  }
  Beside(const Beside&) = delete;
  Beside& operator=(const Beside&) = delete;
  ~Beside() {
    std::error_code ignored;
    std::filesystem::remove(beside_, ignored);
  }

  const std::filesystem::path& path() const { return beside_; }
  void take_place() { std::filesystem::rename(beside_, path_); }

 private:
  std::filesystem::path path_, beside_;
};

}  // namespace

Safetensors read_safetensors(const std::string& path) { return Reader(path).read(); }

void write_safetensors(const std::string& path, const Safetensors& contents) {
  Beside beside(path);
  std::ofstream file(beside.path(), std::ios::binary);
  write_all(file, contents);
  file.close();
  TORCH_CHECK(file, path, " cannot be written: is the folder there, with room left?");
  try {
    beside.take_place();
  } catch (const std::filesystem::filesystem_error& error) {
    TORCH_CHECK(false, path, " cannot be written: ", error.code().message());
  }
}

}  // namespace torchquant
