// Codes of 2 to 8 bits, eight to a 64-bit lane: neighbours are joined three times, by shifts of
// every other one of them, or parted again. Four lanes make 32 codes.
#include <immintrin.h>

#include "element.h"

namespace torchquant::kernels {
namespace {

constexpr int64_t kStep = 32;

inline __m256i load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store256(void* p, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }

// What the codes of a width have in common. `gather` brings the 2 * bits bytes that the lanes of
// 128 bits hold together, `spread` apart again.
struct Width {
  int bits;
  __m256i code;  // the bits of a code, in each byte
  __m256i sign;  // its highest one
  __m128i shift[3];
  __m256i even[3];
  __m256i gather;
  __m256i spread;

  explicit Width(int bits) : bits(bits) {
    code = _mm256_set1_epi8(static_cast<char>((1 << bits) - 1));
    sign = _mm256_set1_epi8(static_cast<char>(1 << (bits - 1)));
    for (int i = 0; i < 3; ++i) shift[i] = _mm_cvtsi32_si128((8 - bits) << i);
    even[0] = _mm256_set1_epi16((1 << bits) - 1);
    even[1] = _mm256_set1_epi32((1 << (2 * bits)) - 1);
    even[2] = _mm256_set1_epi64x((int64_t{1} << (4 * bits)) - 1);
    char gathered[16], spreaded[16];
    for (int i = 0; i < 16; ++i) {
      gathered[i] = static_cast<char>(i < 2 * bits ? i / bits * 8 + i % bits : -1);
      spreaded[i] = static_cast<char>(i % 8 < bits ? i / 8 * bits + i % 8 : -1);
    }
    gather = _mm256_broadcastsi128_si256(load<__m128i>(gathered, 0));
    spread = _mm256_broadcastsi128_si256(load<__m128i>(spreaded, 0));
  }
};

// In lanes of twice the width: the lower half stays, the upper one moves down to it.
inline __m256i join(const Width& w, __m256i x) {
  x = _mm256_or_si256(_mm256_and_si256(x, w.even[0]),
                      _mm256_srl_epi16(_mm256_andnot_si256(w.even[0], x), w.shift[0]));
  x = _mm256_or_si256(_mm256_and_si256(x, w.even[1]),
                      _mm256_srl_epi32(_mm256_andnot_si256(w.even[1], x), w.shift[1]));
  return _mm256_or_si256(_mm256_and_si256(x, w.even[2]),
                         _mm256_srl_epi64(_mm256_andnot_si256(w.even[2], x), w.shift[2]));
}

inline __m256i part(const Width& w, __m256i x) {
  x = _mm256_or_si256(_mm256_and_si256(x, w.even[2]),
                      _mm256_sll_epi64(_mm256_andnot_si256(w.even[2], x), w.shift[2]));
  x = _mm256_or_si256(_mm256_and_si256(x, w.even[1]),
                      _mm256_sll_epi32(_mm256_andnot_si256(w.even[1], x), w.shift[1]));
  return _mm256_or_si256(_mm256_and_si256(x, w.even[0]),
                         _mm256_sll_epi16(_mm256_andnot_si256(w.even[0], x), w.shift[0]));
}

inline __m256i extend_sign(const Width& w, __m256i codes) {
  return _mm256_sub_epi8(_mm256_xor_si256(codes, w.sign), w.sign);
}

// Writes 16 + 2 * bits bytes, of which 4 * bits count. What of the codes does not fit joins `lost`.
inline void pack_step(const Width& w, bool is_signed, const uint8_t* codes, uint8_t* packed,
                      __m256i& lost) {
  const __m256i x = load256(codes);
  const __m256i kept = _mm256_and_si256(x, w.code);
  lost = _mm256_or_si256(lost, _mm256_xor_si256(x, is_signed ? extend_sign(w, kept) : kept));
  const __m256i bytes = _mm256_shuffle_epi8(join(w, kept), w.gather);
  store(packed, 0, _mm256_castsi256_si128(bytes));
  store(packed + 2 * w.bits, 0, _mm256_extracti128_si256(bytes, 1));
}

// Reads 16 + 2 * bits bytes, of which 4 * bits count.
inline void unpack_step(const Width& w, bool is_signed, const uint8_t* packed, uint8_t* codes) {
  const __m256i bytes =
      _mm256_set_m128i(load<__m128i>(packed + 2 * w.bits, 0), load<__m128i>(packed, 0));
  const __m256i x = part(w, _mm256_shuffle_epi8(bytes, w.spread));
  store256(codes, is_signed ? extend_sign(w, x) : x);
}

// Calls whole(i, b) for the steps that may touch all that they do, codes from i on and packed bytes
// from b on, and last(i, b, count, size) for the rest: that many codes and bytes exist.
template <class Whole, class Last>
inline void for_each_step(int64_t n, int bits, Whole whole, Last last) {
  const int64_t size = (n * bits + 7) / 8, touched = 16 + 2 * bits;
  int64_t i = 0, bytes = 0;
  for (; i + kStep <= n && bytes + touched <= size; i += kStep, bytes += 4 * bits) whole(i, bytes);
  for (; i < n; i += kStep, bytes += 4 * bits) {
    const int64_t count = n - i < kStep ? n - i : kStep;
    last(i, bytes, static_cast<size_t>(count), static_cast<size_t>((count * bits + 7) / 8));
  }
}

bool pack(const void* codes, bool is_signed, int64_t n, int bits, void* packed) {
  const Width w(bits);
  const auto* from = at<uint8_t>(codes, 0);
  auto* to = at<uint8_t>(packed, 0);
  __m256i lost = _mm256_setzero_si256();
  for_each_step(
      n, bits, [&](int64_t i, int64_t b) { pack_step(w, is_signed, from + i, to + b, lost); },
      [&](int64_t i, int64_t b, size_t count, size_t size) {
        uint8_t few[kStep] = {}, bytes[kStep];
        memcpy(few, from + i, count);
        pack_step(w, is_signed, few, bytes, lost);
        memcpy(to + b, bytes, size);
      });
  return _mm256_testz_si256(lost, lost) != 0;
}

void unpack(const void* packed, bool is_signed, int64_t n, int bits, void* codes) {
  const Width w(bits);
  const auto* from = at<uint8_t>(packed, 0);
  auto* to = at<uint8_t>(codes, 0);
  for_each_step(
      n, bits, [&](int64_t i, int64_t b) { unpack_step(w, is_signed, from + b, to + i); },
      [&](int64_t i, int64_t b, size_t count, size_t size) {
        uint8_t few[kStep], bytes[kStep] = {};
        memcpy(bytes, from + b, size);
        unpack_step(w, is_signed, bytes, few);
        memcpy(to + i, few, count);
      });
}

}  // namespace

const BitsKernels bits_avx2 = {pack, unpack};

}  // namespace torchquant::kernels
