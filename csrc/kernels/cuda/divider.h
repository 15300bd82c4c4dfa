// Division by a number that stays the same: a multiplication and a shift while the dividend fits 31
// bits, since a processor of a card divides in some twenty instructions, or a hundred for 64 bits.
#pragma once

#include "../../math/affine.h"

namespace torchquant::kernels::cuda {

// Granlund and Montgomery, "Division by invariant integers using multiplication", 1994: with
// 2^shift the power of two from `by` on, n / by = (mulhi(n, magic) + n) >> shift for n < 2^31.
class Divider {
 public:
  TORCHQUANT_HOST_DEVICE Divider(int64_t by) : by_(by) {
    if (by < 1 || by > INT32_MAX) return;
    while ((int64_t{1} << shift_) < by) ++shift_;
    magic_ = static_cast<uint32_t>((((uint64_t{1} << shift_) - static_cast<uint64_t>(by)) << 32) /
                                       static_cast<uint64_t>(by) +
                                   1);
  }

  TORCHQUANT_HOST_DEVICE operator int64_t() const { return by_; }

  TORCHQUANT_HOST_DEVICE int64_t divide(int64_t n) const {
    if (magic_ == 0 || n >> 31 != 0) return n / by_;
    const auto low = static_cast<uint32_t>(n);
    const auto high = static_cast<uint32_t>(static_cast<uint64_t>(low) * magic_ >> 32);
    return (high + low) >> shift_;
  }

 private:
  int64_t by_;
  uint32_t magic_ = 0;  // 0 where there is none
  uint32_t shift_ = 0;
};

}  // namespace torchquant::kernels::cuda
