// The entry that libFuzzer calls, the same for every target.
#include "input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  torchquant::fuzz::test(torchquant::fuzz::Input(data, size));
  return 0;
}
