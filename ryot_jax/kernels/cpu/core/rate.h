// The rate of a target's products, measured where it runs.
#ifndef RYOT_KERNELS_CPU_CORE_RATE_H_
#define RYOT_KERNELS_CPU_CORE_RATE_H_

#include "micro_kernel.h"

namespace ryot {
namespace {

RYOT_INLINE double seconds_now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// FLOP/s of this thread for products of operands in the first-level cache: the best of several short runs, 10 ms in all,
// as others may use the core meanwhile.
static double measure_product_rate() {
  constexpr long kRows = 2 * 48, kWords = 48, kRuns = 5;  // 18 KiB of left operands, and 3 or 6 for a panel
  constexpr double kRunSeconds = 2e-3;
  alignas(64) static Word left[kRows * kWords], right[kWords * kPanel];  // zeros: products of them are as fast
  alignas(64) float sums[kPanel];
  Word *const a = left, *const b = right;
  float* const out = sums;
  if (Traits::enter_worker) Traits::enter_worker();
  double best = 0;
  for (long run = 0; run < kRuns; ++run) {
    const double start = seconds_now();
    double seconds = 0;
    long times = 0;
    do {
      asm volatile("" : : "r"(a), "r"(b), "r"(out) : "memory");  // each product anew
      multiply(kRows, kPanel, kWords, LeftRows{a, kWords}, Right{b, kWords},
               [=](long, long n, Vector sum, long) RYOT_ALWAYS_INLINE { store(out + n, sum); });
      ++times;
      seconds = seconds_now() - start;
    } while (seconds < kRunSeconds);
    const double rate = 2.0 * kRows * kWords * kGroup * kPanel * static_cast<double>(times) / seconds;
    best = rate > best ? rate : best;
  }
  if (Traits::leave_worker) Traits::leave_worker();
  return best;
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_RATE_H_
