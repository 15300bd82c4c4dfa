#include "simd_avx2.h"
// Simd first: the kernels are written in it.
#include "histogram_simd.h"

namespace torchquant::kernels {

const HistogramKernels histogram_avx2 = {observe, flush};

}  // namespace torchquant::kernels
