// Runs a TorchScript model that holds torchquant operators. There is no Python here.
#include <ATen/Parallel.h>
#include <torch/script.h>
#include <torch/serialize.h>
#include <torchquant.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr int kRuns = 5;

std::ifstream open_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw std::runtime_error("cannot open " + path + ": does it exist, and may you read it?");
  }
  return file;
}

void write_file(const std::string& path, const std::vector<char>& bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!file.flush()) {
    throw std::runtime_error("cannot write " + path + ": is the folder there, with room left?");
  }
}

torch::jit::Module load_model(const std::string& path) {
  std::ifstream file = open_file(path);
  try {
    return torch::jit::load(file);
  } catch (const c10::Error& error) {
    throw std::runtime_error(
        "cannot load " + path +
        ", which torch.jit.save should have written: " + error.what_without_backtrace());
  }
}

std::vector<torch::jit::IValue> load_inputs(const std::string& path) {
  std::ifstream file = open_file(path);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file),
                                std::istreambuf_iterator<char>()};
  torch::jit::IValue inputs;
  try {
    inputs = torch::pickle_load(bytes);
  } catch (const c10::Error& error) {
    throw std::runtime_error("cannot load " + path + ", which torch.save should have written: " +
                             error.what_without_backtrace());
  }
  if (!inputs.isTuple()) {
    throw std::runtime_error(path + " must hold a tuple of the model's arguments: " +
                             "torch.save((input_ids, attention_mask), path)");
  }
  return inputs.toTupleRef().elements().vec();
}

int thread_count(const std::string& text) {
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

void run(const std::string& model_path, const std::string& inputs_path,
         const std::string& output_path) {
  torch::InferenceMode guard;
  torch::jit::Module model = load_model(model_path);
  model.eval();
  const std::vector<torch::jit::IValue> inputs = load_inputs(inputs_path);

  torch::Tensor output;
  std::vector<double> milliseconds;
  for (int i = 0; i < kRuns; ++i) {
    const auto start = std::chrono::steady_clock::now();
    output = model.forward(inputs).toTensor();
    const std::chrono::duration<double, std::milli> elapsed =
        std::chrono::steady_clock::now() - start;
    milliseconds.push_back(elapsed.count());
  }
  std::sort(milliseconds.begin(), milliseconds.end());

  write_file(output_path, torch::pickle_save(output));
  std::cout << "output: " << output.scalar_type() << ' ' << output.sizes() << '\n'
            << "milliseconds: " << milliseconds[kRuns / 2] << '\n'
            << "threads: " << at::get_num_threads() << '\n'
            << "kernels: " << torchquant::active_kernels() << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 && argc != 5) {
    std::cerr << "usage: run_model MODEL.pt INPUTS.pt OUTPUT.pt [THREADS]\n"
                 "  MODEL.pt   a TorchScript model: torch.jit.save(traced, path)\n"
                 "  INPUTS.pt  its arguments: torch.save((input_ids, attention_mask), path)\n"
                 "  OUTPUT.pt  where to write the resulting tensor; torch.load(path) reads it\n";
    return 2;
  }
  try {
    if (argc == 5) {
      at::set_num_threads(thread_count(argv[4]));
    }
    run(argv[1], argv[2], argv[3]);
  } catch (const c10::Error& error) {
    std::cerr << "run_model: " << error.what_without_backtrace() << '\n';
    return 1;
  } catch (const std::exception& error) {
    std::cerr << "run_model: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
