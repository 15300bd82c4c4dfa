// Reads and writes model files for tests of Python's: `model_files load PATH...` prints a line for
// each, "taken" or why not; `model_files save FROM OTHER TO` writes one after the other for ever.
#include <iostream>
#include <string>
#include <vector>

#include "torchquant.h"

namespace {

std::string outcome(const std::string& path) {
  try {
    torchquant::load_quantized(path);
  } catch (const c10::ValueError& error) {
    return error.what_without_backtrace();
  }
  return "taken";
}

void save_for_ever(const std::string& from, const std::string& other, const std::string& to) {
  const torchquant::QuantizedModel models[] = {torchquant::load_quantized(from),
                                               torchquant::load_quantized(other)};
  for (int turn = 0;; turn ^= 1) {
    torchquant::save_quantized(models[turn], to);
    if (turn) std::cout << "saved" << std::endl;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  try {
    if (arguments.size() == 4 && arguments[0] == "save") {
      save_for_ever(arguments[1], arguments[2], arguments[3]);
    }
    for (std::size_t i = 1; i < arguments.size(); ++i) {
      std::cout << outcome(arguments[i]) << '\n';
    }
  } catch (const c10::Error& error) {
    std::cerr << error.what_without_backtrace() << '\n';
    return 1;
  }
}
