// Prints the kernel sets that run on this machine, best first, a line each.
#include <cstdio>

#include "kernels/kernels.h"

int main() {
  using torchquant::kernels::supported;
  for (const auto* set = supported(); *set != nullptr; ++set) std::puts((*set)->name);
}
