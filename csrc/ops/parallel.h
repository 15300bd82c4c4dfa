// Sharing out work among threads that compute as docs/numerics.md says: they round to nearest and
// keep denormals, whatever they were told (fesetround, torch.set_flush_denormal).
#pragma once

#include <ATen/Parallel.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#else
#include <cfenv>
#endif

namespace torchquant::ops {

// The calling thread rounds to nearest and keeps denormals while this lives.
class DefaultFloats {
 public:
  DefaultFloats(const DefaultFloats&) = delete;
  DefaultFloats& operator=(const DefaultFloats&) = delete;

#if defined(__x86_64__)
  DefaultFloats() : before_(_mm_getcsr()) {
    if ((before_ & kChanged) != 0) _mm_setcsr(before_ & ~kChanged);
  }
  ~DefaultFloats() {
    if ((before_ & kChanged) != 0) _mm_setcsr(before_);
  }

 private:
  // Flush to zero, both bits of rounding, and denormals are zeros.
  static constexpr unsigned kChanged = 0xe040;
  unsigned before_;
#else
  DefaultFloats() {
    std::fegetenv(&before_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultFloats() { std::fesetenv(&before_); }

 private:
  std::fenv_t before_;
#endif
};

// at::parallel_for, which passes on what the work throws.
template <class Work>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Work& work) {
  at::parallel_for(begin, end, grain, [&](int64_t from, int64_t to) {
    const DefaultFloats floats;
    work(from, to);
  });
}

}  // namespace torchquant::ops
