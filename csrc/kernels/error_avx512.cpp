#include "simd_avx512.h"
// Simd first: the kernels are written in it.
#include "error_simd.h"

namespace torchquant::kernels {

const ErrorKernels error_avx512 = {error_of_floats, error_block<double, double>};

}  // namespace torchquant::kernels
