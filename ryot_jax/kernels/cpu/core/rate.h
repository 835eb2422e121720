// The rate of a target's products, measured where it runs.
#ifndef RYOT_KERNELS_CPU_CORE_RATE_H_
#define RYOT_KERNELS_CPU_CORE_RATE_H_

#include "micro_kernel.h"

namespace ryot {
namespace {

// The processor time of this thread: what others use of the core does not count, where the system knows of it.
RYOT_INLINE double seconds_used() {
  timespec used;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return static_cast<double>(used.tv_sec) + 1e-9 * static_cast<double>(used.tv_nsec);
}

// FLOP/s of this thread for products of operands in the first-level cache: the best of several short runs, 2 ms in all.
static double measure_product_rate() {
  constexpr long kTiles = 8, kWords = 48;
  constexpr long kRuns = 5, kTimes = 16;  // times that all tiles are computed between two readings of the clock
  constexpr double kRunSeconds = 4e-4;
  alignas(64) static Word left[kTiles * kTileRows * kWords], right[kWords * kPanel];  // zeros, which are as fast
  // Every result has a place of its own and is used: of results that overwrite each other, compilers compute the last.
  alignas(64) float sums[kTileRows * kPanel];
  float* const out = sums;
  if (Traits::enter_worker) Traits::enter_worker();
  double best = 0;
  for (long run = 0; run < kRuns; ++run) {
    const double start = seconds_used();
    double seconds = 0;
    long tiles = 0;
    do {
      for (long i = 0; i < kTimes * kTiles; ++i) {
        const LeftRows rows{left + i % kTiles * kTileRows * kWords, kWords};
        multiply(kTileRows, kPanel, kWords, rows, Right{right, kWords},
                 [=](long m, long n, Vector sum, long) RYOT_ALWAYS_INLINE { store(out + m * kPanel + n, sum); });
        asm volatile("" : : "r"(out) : "memory");
      }
      tiles += kTimes * kTiles;
      seconds = seconds_used() - start;
    } while (seconds < kRunSeconds);
    const double flop = 2.0 * kTileRows * kWords * kGroup * kPanel * static_cast<double>(tiles);
    best = flop / seconds > best ? flop / seconds : best;
  }
  if (Traits::leave_worker) Traits::leave_worker();
  return best;
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_RATE_H_
