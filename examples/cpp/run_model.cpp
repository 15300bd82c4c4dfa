// Runs a TorchScript model that holds torchquant operators. There is no Python here.
#include <torch/script.h>

#include "program.h"

namespace {

constexpr const char* kUsage =
    "usage: run_model MODEL.pt INPUTS.pt OUTPUT.pt [THREADS]\n"
    "  MODEL.pt   a TorchScript model: torch.jit.save(traced, path)\n"
    "  INPUTS.pt  its arguments: torch.save((input_ids, attention_mask), path)\n"
    "  OUTPUT.pt  where to write the resulting tensor; torch.load(path) reads it\n";

torch::jit::Module load_model(const std::string& path) {
  std::ifstream file = program::open_file(path);
  try {
    return torch::jit::load(file);
  } catch (const std::exception& error) {
    throw std::runtime_error(
        "cannot load " + path +
        ", which torch.jit.save should have written: " + program::reason(error));
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 && argc != 5) {
    std::cerr << kUsage;
    return 2;
  }
  return program::run_main("run_model", [&] {
    if (argc == 5) at::set_num_threads(program::thread_count(argv[4]));
    torch::InferenceMode guard;
    torch::jit::Module model = load_model(argv[1]);
    model.eval();
    const std::vector<c10::IValue> inputs = program::load_inputs(argv[2]);
    program::run_and_report([&] { return model.forward(inputs).toTensor(); }, argv[3]);
  });
}
