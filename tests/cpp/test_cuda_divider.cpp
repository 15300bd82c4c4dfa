// Division by multiplication, against the processor's own.
#include <gtest/gtest.h>

#include <initializer_list>
#include <random>

#include "kernels/cuda/divider.h"

namespace torchquant::kernels::cuda {
namespace {

void expect_division(const Divider& divider, int64_t n) {
  ASSERT_EQ(divider.divide(n), n / int64_t{divider}) << n << " / " << int64_t{divider};
}

// Multiples are where a quotient that is too small or too great by one shows.
void expect_divisions(int64_t by) {
  const Divider divider(by);
  for (const int64_t quotient : {int64_t{0}, int64_t{1}, int64_t{2}, int64_t{1000}, INT32_MAX / by,
                                 (int64_t{1} << 40) / by}) {
    for (int64_t near = -2; near <= 2; ++near) {
      const int64_t n = quotient * by + near;
      if (n >= 0) expect_division(divider, n);
    }
  }
  for (const int64_t n : {int64_t{INT32_MAX} - 1, int64_t{INT32_MAX}, int64_t{INT32_MAX} + 1,
                          int64_t{UINT32_MAX}, INT64_MAX}) {
    expect_division(divider, n);
  }
}

TEST(CudaDivider, DividesByAllSmallNumbers) {
  for (int64_t by = 1; by < 5000; ++by) expect_divisions(by);
}

TEST(CudaDivider, DividesByPowersOfTwoAndTheirNeighbours) {
  for (int shift = 1; shift < 50; ++shift) {
    for (int64_t near = -1; near <= 1; ++near) expect_divisions((int64_t{1} << shift) + near);
  }
}

TEST(CudaDivider, DividesByRandomNumbers) {
  std::mt19937_64 generator(1);
  std::uniform_int_distribution<int> shift(1, 62);
  for (int i = 0; i < 100000; ++i) {
    const auto by = static_cast<int64_t>(generator() >> shift(generator));
    const auto n = static_cast<int64_t>(generator() >> shift(generator));
    if (by > 0) expect_division(Divider(by), n);
  }
}

}  // namespace
}  // namespace torchquant::kernels::cuda
