#include "simd_avx2.h"
// Simd first: the kernels are written in it.
#include "quantize_simd.h"

namespace torchquant::kernels {

const QuantizeKernels quantize_avx2 = {quantize_runs, quantize_columns};

}  // namespace torchquant::kernels
