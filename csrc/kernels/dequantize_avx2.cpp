#include "simd_avx2.h"
// Simd first: the kernels are written in it.
#include "dequantize_simd.h"

namespace torchquant::kernels {

const DequantizeKernels dequantize_avx2 = {dequantize_runs, dequantize_columns};

}  // namespace torchquant::kernels
