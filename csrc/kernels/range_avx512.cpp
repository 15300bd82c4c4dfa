#include "simd_avx512.h"
// Simd first: the kernels are written in it.
#include "range_simd.h"

namespace torchquant::kernels {

const RangeKernels range_avx512 = {range_span, range_runs, range_columns, choose_qparams};

}  // namespace torchquant::kernels
