#include "simd_avx512.h"
// Simd first: the kernels are written in it.
#include "fake_quantize_simd.h"

namespace torchquant::kernels {

const FakeQuantizeKernels fake_quantize_avx512 = {fake_quantize_runs, fake_quantize_columns,
                                                  backward_runs,      backward_columns,
                                                  slope_block,        slope_columns};

}  // namespace torchquant::kernels
