// What the programs share: reading arguments and inputs, timing, and one readable line on failure.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/ivalue.h>
#include <torch/serialize.h>
#include <torchquant.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace program {

constexpr int kRuns = 9;

inline std::ifstream open_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw std::runtime_error("cannot open " + path + ": does it exist, and may you read it?");
  }
  return file;
}

// What went wrong, without the stacks that torch adds, of C++ below and of TorchScript above it.
inline std::string reason(const std::exception& error) {
  std::string text = error.what();
  text.erase(std::min(text.find("\nException raised from "), text.size()));
  text.erase(text.find_last_not_of('\n') + 1);
  const std::size_t stack = text.find("Traceback of TorchScript");
  return stack == text.npos ? text : text.substr(text.rfind('\n') + 1);
}

// What torch.save wrote.
inline c10::IValue load_value(const std::string& path) {
  std::ifstream file = open_file(path);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file),
                                std::istreambuf_iterator<char>()};
  try {
    return torch::pickle_load(bytes);
  } catch (const std::exception& error) {
    throw std::runtime_error("cannot load " + path +
                             ", which torch.save should have written: " + reason(error));
  }
}

inline std::vector<c10::IValue> load_inputs(const std::string& path) {
  const c10::IValue inputs = load_value(path);
  if (!inputs.isTuple()) {
    throw std::runtime_error(path + " must hold a tuple of the model's arguments: " +
                             "torch.save((input_ids, attention_mask), path)");
  }
  return inputs.toTupleRef().elements().vec();
}

// For torch.load.
inline void save_tensor(const at::Tensor& tensor, const std::string& path) {
  const std::vector<char> bytes = torch::pickle_save(tensor);
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!file.flush()) {
    throw std::runtime_error("cannot write " + path + ": is the folder there, with room left?");
  }
}

inline int thread_count(const std::string& text) {
  std::size_t parsed = 0;
  int threads = 0;
  try {
    threads = std::stoi(text, &parsed);
  } catch (const std::logic_error&) {
  }
  if (threads < 1 || parsed != text.size()) {
    throw std::runtime_error("THREADS must be a whole number above 0, but it is '" + text + "'");
  }
  return threads;
}

// Runs a model several times, writes its output, and prints what it was and the median time.
inline void run_and_report(const std::function<at::Tensor()>& model,
                           const std::string& output_path) {
  at::Tensor output;
  std::vector<double> milliseconds;
  for (int i = 0; i < kRuns; ++i) {
    const auto start = std::chrono::steady_clock::now();
    output = model();
    const std::chrono::duration<double, std::milli> elapsed =
        std::chrono::steady_clock::now() - start;
    milliseconds.push_back(elapsed.count());
  }
  std::sort(milliseconds.begin(), milliseconds.end());
  save_tensor(output, output_path);
  std::cout << "output: " << output.scalar_type() << ' ' << output.sizes() << '\n'
            << "milliseconds: " << milliseconds[kRuns / 2] << '\n'
            << "threads: " << at::get_num_threads() << '\n'
            << "kernels: " << torchquant::active_kernels() << '\n';
}

// What torch says where a model's operators are not there, and what to do about it.
inline std::string explained(const std::string& message) {
  const bool is_missing = message.find("Unknown builtin op: torchquant::") != message.npos ||
                          message.find("schema for torchquant::") != message.npos;
  return is_missing ? message +
                          "\nThe operators are not in this program: link TorchQuant::torchquant "
                          "and include <torchquant.h>, which keeps them linked"
                    : message;
}

// The exit status of a program: 1 after a line that says what went wrong.
inline int run_main(const char* name, const std::function<void()>& body) {
  try {
    body();
    return 0;
  } catch (const std::exception& error) {
    std::cerr << name << ": " << explained(reason(error)) << '\n';
    return 1;
  }
}

}  // namespace program
