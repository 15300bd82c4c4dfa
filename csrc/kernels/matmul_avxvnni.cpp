// The int8 matmul in AVX-VNNI: vpdpbusd on 256 bits, of client processors without AVX-512.
#include "simd_avx2.h"

namespace torchquant::kernels {
namespace {

// 6 rows x 16 columns are 12 accumulators; 2 weights, 1 activation and the flip leave 1 of 16
// registers free.
struct Vnni {
  using V = __m256i;
  static constexpr int64_t bytes = 32;
  static constexpr int vectors = 2;  // of a panel's row
  static constexpr int accumulators = 12;
  static constexpr int max_rows = 6;
  static constexpr int block_rows = 6;

  static V zero() { return _mm256_setzero_si256(); }
  static V all(int32_t byte) { return _mm256_set1_epi8(static_cast<char>(byte)); }
  static V load(const int8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static V broadcast(const uint8_t* quad, V flip) {
    return _mm256_xor_si256(_mm256_set1_epi32(kernels::load<int32_t>(quad, 0)), flip);
  }
  static V dot(V sums, V unsigned_bytes, V signed_bytes) {
    return _mm256_dpbusd_avx_epi32(sums, unsigned_bytes, signed_bytes);
  }
};

}  // namespace
}  // namespace torchquant::kernels

// Simd and Vnni first: the kernel is written in them.
#include "matmul_vnni.h"

namespace torchquant::kernels {
namespace {

constexpr int64_t kProductsPerThread = int64_t{1} << 18;  // an estimate: 2 x 32 bytes a cycle

}  // namespace

const MatmulKernels matmul_avxvnni = {
    kActivationBytes, kSignedOffset,  kProductsPerThread, prepare_row,
    quantize_row,     quantize_token, multiply,           0,
    nullptr};

}  // namespace torchquant::kernels
