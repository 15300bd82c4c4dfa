#include "simd_avx512.h"
// Simd first: the kernels are written in it.
#include "histogram_simd.h"

namespace torchquant::kernels {

const HistogramKernels histogram_avx512 = {observe, flush};

}  // namespace torchquant::kernels
