// Which kernels run: the best that the machine supports, or the ones TORCHQUANT_KERNELS names.
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"

namespace torchquant::kernels {
namespace {

const Kernels kScalar = {"scalar",          range_scalar,         quantize_scalar,
                         dequantize_scalar, fake_quantize_scalar, error_scalar,
                         histogram_scalar,  matmul_scalar,        pack_scalar,
                         bits_scalar,       transpose_scalar};
#if defined(__x86_64__)
const Kernels kAvx2 = {
    "avx2",         range_avx2,  quantize_avx2, dequantize_avx2, fake_quantize_avx2, error_avx2,
    histogram_avx2, matmul_avx2, pack_avx2,     bits_avx2,       transpose_avx2};
const Kernels kAvxVnni = {"avxvnni",          range_avx2, quantize_avx2,  dequantize_avx2,
                          fake_quantize_avx2, error_avx2, histogram_avx2, matmul_avxvnni,
                          pack_avx2,          bits_avx2,  transpose_avx2};
const Kernels kAvx512Vnni = {"avx512vnni",      range_avx512,         quantize_avx512,
                             dequantize_avx512, fake_quantize_avx512, error_avx512,
                             histogram_avx512,  matmul_avx512vnni,    pack_avx512,
                             bits_avx2,         transpose_avx2};
#endif

struct Candidate {
  const Kernels& kernels;
  bool (*runs_here)();
};

bool always() { return true; }

#if defined(__x86_64__)
// __builtin_cpu_supports asks the processor (cpuid) and the operating system (xgetbv). Not every
// compiler's knows all names: the others are bits of cpuid alone, as their registers are AVX2's.
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx >> 29 & 1) != 0;
}

bool has_avx2() { return __builtin_cpu_supports("avx2") && has_f16c(); }

bool has_avxvnni() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return has_avx2() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax >> 4 & 1) != 0;
}

bool has_avx512vnni() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}
#endif

// Best first.
const Candidate kCandidates[] = {
#if defined(__x86_64__)
    {kAvx512Vnni, has_avx512vnni},
    {kAvxVnni, has_avxvnni},
    {kAvx2, has_avx2},
#endif
    {kScalar, always},
};

std::vector<const Kernels*> find_supported() {
  std::vector<const Kernels*> found;
  for (const Candidate& candidate : kCandidates) {
    if (candidate.runs_here()) found.push_back(&candidate.kernels);
  }
  found.push_back(nullptr);
  return found;
}

std::string supported_names() {
  std::string names;
  for (const Kernels* const* set = supported(); *set != nullptr; ++set) {
    names += (names.empty() ? "" : ", ") + std::string((*set)->name);
  }
  return names;
}

const Kernels& choose() {
  const char* wanted = std::getenv("TORCHQUANT_KERNELS");
  if (wanted == nullptr || *wanted == '\0') return **supported();
  for (const Kernels* const* set = supported(); *set != nullptr; ++set) {
    if (std::string(wanted) == (*set)->name) return **set;
  }
  throw std::runtime_error("TORCHQUANT_KERNELS is \"" + std::string(wanted) +
                           "\", which is unknown or not supported on this machine: unset it, or "
                           "set it to one of " +
                           supported_names());
}

}  // namespace

const Kernels& scalar() { return kScalar; }

const Kernels* const* supported() {
  static const std::vector<const Kernels*> sets = find_supported();
  return sets.data();
}

const Kernels& active() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace torchquant::kernels
