// Files of safetensors: tensors by name, and texts beside them.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>

namespace torchquant {

struct Safetensors {
  std::map<std::string, at::Tensor> tensors;
  std::map<std::string, std::string> metadata;
};

// Throws c10::Error, naming the path, where the file is not there, not whole or no safetensors. The
// tensors own their memory.
Safetensors read_safetensors(const std::string& path);

// Written beside `path` and renamed (new_file.h): an old file is replaced whole or, with a
// c10::Error, not at all.
void write_safetensors(const std::string& path, const Safetensors& contents);

// A dtype's name in Python and in the headers of our files.
std::string dtype_name(at::ScalarType dtype);

}  // namespace torchquant
