// Scratch memory of a kernel call.
#ifndef RYOT_KERNELS_CPU_CORE_SCRATCH_H_
#define RYOT_KERNELS_CPU_CORE_SCRATCH_H_

#include <cstdlib>

#include "common.h"

namespace ryot {
namespace {

// Scratch memory of one kernel call, freed with it. Sizes are in elements of Number.
template <typename Number>
class Scratch {
 public:
  explicit Scratch(long size)
      : data_(static_cast<Number*>(aligned_alloc(64, round_up(larger(size, 1) * sizeof(Number), 64)))) {}
  ~Scratch() { free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  Number* get() const { return data_; }

 private:
  Number* data_;
};

// Scalars per row of a scratch matrix: whole words and vectors, and an odd number of cache lines, so that rows do not
// map to a few sets of the first-level cache when n is a power of two.
RYOT_INLINE long scratch_row(long n) { return (divide_up(n * 4, 64) | 1) * 16; }

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_SCRATCH_H_
