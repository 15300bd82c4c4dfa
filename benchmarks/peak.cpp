// What the machine can do at best: exact INT8 dot products on registers alone, and reading memory.
// Inline assembly, because the compiler would hoist a product of constants out of the loop.
#include <immintrin.h>

#include <cstdint>

namespace {

constexpr int kAccumulators = 12;  // with two operands and two products, what 16 registers hold

}  // namespace

// Each runs `rounds` times over its accumulators and returns the operations done, two for a
// multiply-add.
extern "C" __attribute__((target("avx512f,avx512vnni"))) int64_t dot_avx512vnni(int64_t rounds) {
  const __m512i a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(1);
  __m512i sums[kAccumulators] = {};
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kAccumulators; ++i)
      asm volatile("vpdpbusd %2, %1, %0" : "+v"(sums[i]) : "v"(a), "v"(b));
  }
  return rounds * kAccumulators * 64 * 2;
}

extern "C" __attribute__((target("avx2,avxvnni"))) int64_t dot_avxvnni(int64_t rounds) {
  const __m256i a = _mm256_set1_epi8(1), b = _mm256_set1_epi8(1);
  __m256i sums[kAccumulators] = {};
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kAccumulators; ++i)
      asm volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums[i]) : "x"(a), "x"(b));
  }
  return rounds * kAccumulators * 32 * 2;
}

extern "C" __attribute__((target("avx2"))) int64_t dot_avx2(int64_t rounds) {
  const __m256i a = _mm256_set1_epi16(1), b = _mm256_set1_epi16(1);
  __m256i sums[kAccumulators] = {};
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 6
    for (int i = 0; i < kAccumulators; i += 2) {
      __m256i product, next;
      asm volatile(
          "vpmaddwd %5, %4, %2\n\tvpmaddwd %5, %4, %3\n\t"
          "vpaddd %2, %0, %0\n\tvpaddd %3, %1, %1"
          : "+x"(sums[i]), "+x"(sums[i + 1]), "=&x"(product), "=&x"(next)
          : "x"(a), "x"(b));
    }
  }
  return rounds * kAccumulators * 16 * 2;
}

// Returns the sum, so that the loads cannot be left out; `count` is a multiple of 32.
extern "C" __attribute__((target("avx2"))) int64_t stream_sum(const int64_t* values,
                                                              int64_t count) {
  constexpr int kLanes = 8;
  __m256i sums[kLanes] = {};
  for (int64_t i = 0; i < count; i += 4 * kLanes) {
#pragma GCC unroll 8
    for (int lane = 0; lane < kLanes; ++lane) {
      const auto* source = reinterpret_cast<const __m256i*>(values + i + 4 * lane);
      sums[lane] = _mm256_add_epi64(sums[lane], _mm256_loadu_si256(source));
    }
  }
  alignas(32) int64_t lanes[4];
  int64_t total = 0;
  for (const __m256i& sum : sums) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sum);
    total += lanes[0] + lanes[1] + lanes[2] + lanes[3];
  }
  return total;
}
