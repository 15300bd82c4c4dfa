// Runs an AOTInductor package that calls torchquant operators. There is no Python here.
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <unistd.h>

#include <csignal>
#include <string_view>
#include <tuple>

#include "program.h"

namespace {

constexpr const char* kUsage =
    "usage: run_package PACKAGE.pt2 INPUTS.pt OUTPUT.pt [THREADS]\n"
    "  PACKAGE.pt2  a compiled model: torch._inductor.aoti_compile_and_package(exported, ...)\n"
    "  INPUTS.pt    its arguments: torch.save((input_ids, attention_mask), path)\n"
    "  OUTPUT.pt    where to write the resulting tensor; torch.load(path) reads it\n";

constexpr char kForeignProcessor[] =
    "run_package: the package has instructions that this processor lacks: compile it on this "
    "machine, or on the oldest that is to run it\n";
constexpr char kForeignInputs[] =
    "run_package: the package crashed, as it may on inputs of another dtype, shape or layout than "
    "it was compiled for: with AOTI_RUNTIME_CHECK_INPUTS=1 in the environment it says which\n";

// A package is machine code for one kind of processor, and does not check its inputs.
void explain_crash(int signal) {
  const std::string_view message = signal == SIGILL ? kForeignProcessor : kForeignInputs;
  std::ignore = write(STDERR_FILENO, message.data(), message.size());
  _exit(1);
}

using Loader = torch::inductor::AOTIModelPackageLoader;

Loader load_package(const std::string& path) {
  program::open_file(path);  // says more of a file that is not there
  try {
    return Loader(path);
  } catch (const std::exception& error) {
    throw std::runtime_error("cannot load " + path +
                             ", which torch._inductor.aoti_compile_and_package should have "
                             "written with this torch and on such a machine: " +
                             program::reason(error));
  }
}

std::vector<at::Tensor> load_tensors(const std::string& path) {
  std::vector<at::Tensor> tensors;
  for (const c10::IValue& value : program::load_inputs(path)) {
    if (!value.isTensor()) {
      throw std::runtime_error(path + " must hold a tuple of tensors: torch.save((x,), path)");
    }
    tensors.push_back(value.toTensor());
  }
  return tensors;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 && argc != 5) {
    std::cerr << kUsage;
    return 2;
  }
  for (const int signal : {SIGILL, SIGSEGV, SIGBUS, SIGABRT}) std::signal(signal, explain_crash);
  return program::run_main("run_package", [&] {
    if (argc == 5) at::set_num_threads(program::thread_count(argv[4]));
    c10::InferenceMode guard;
    Loader package = load_package(argv[1]);
    const std::vector<at::Tensor> inputs = load_tensors(argv[2]);
    program::run_and_report([&] { return package.run(inputs).at(0); }, argv[3]);
  });
}
