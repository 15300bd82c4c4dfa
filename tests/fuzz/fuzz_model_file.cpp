// Files of models that anyone may have made: refused with an error, or a model that can be used.
#include <fcntl.h>
#include <unistd.h>

#include "tensors.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t most);

namespace torchquant::fuzz {
namespace {

constexpr size_t kLength = 8;  // of the header's own length, in front of it
constexpr int64_t kMostFeatures = 4096;

// In memory, where there is such a place.
std::string own_path(const char* name) {
  const std::string folder = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
  return folder + "/torchquant_fuzz_" + std::to_string(getpid()) + name;
}

void write_file(const std::string& path, const std::string& content) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  require(file != nullptr, "the file to load cannot be written");
  require(std::fwrite(content.data(), 1, content.size(), file) == content.size(), "write");
  std::fclose(file);
}

// What was loaded can be used, and saved to the same again.
void use(const QuantizedModel& model) {
  for (const auto& [name, layer] : model.layers) {
    if (layer.in_features > kMostFeatures || layer.out_features > kMostFeatures) continue;
    const at::Tensor y = layer(at::zeros({2, layer.in_features}));
    require(y.size(0) == 2 && y.size(1) == layer.out_features, "the shape of a layer's output");
  }
  const std::string path = own_path(".saved");
  save_quantized(model, path);
  const QuantizedModel again = load_quantized(path);
  unlink(path.c_str());
  require(again.layers.size() == model.layers.size(), "layers lost by saving");
  require(again.tensors.size() == model.tensors.size(), "tensors lost by saving");
}

// A header keeps its length in front of it.
void set_length(uint8_t* data, uint64_t length) {
  for (size_t i = 0; i < kLength; ++i) data[i] = static_cast<uint8_t>(length >> (8 * i));
}

}  // namespace

void test(Input input) {
  static const std::string path = own_path("");
  write_file(path, input.rest());
  std::optional<QuantizedModel> model;
  try {
    model = load_quantized(path);
  } catch (const c10::ValueError&) {
    return;
  }
  use(*model);
}

}  // namespace torchquant::fuzz

// Mutates the header alone and then says its new length: blind mutation would hardly ever leave a
// file that is one.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  using namespace torchquant::fuzz;
  if (size <= kLength || seed % 4 == 0) return LLVMFuzzerMutate(data, size, most);
  uint64_t length = 0;
  for (size_t i = kLength; i-- > 0;) length = length << 8 | data[i];
  if (length > size - kLength) length = size - kLength;
  const std::vector<uint8_t> tail(data + kLength + length, data + size);
  const size_t room = most - kLength - tail.size();
  const size_t mutated = LLVMFuzzerMutate(data + kLength, length, room);
  set_length(data, mutated);
  std::copy(tail.begin(), tail.end(), data + kLength + mutated);
  return kLength + mutated + tail.size();
}
