// Square roots lane by lane, for targets without an instruction for them.
#ifndef RYOT_KERNELS_CPU_CORE_LANES_PLAIN_SQUARE_ROOT_H_
#define RYOT_KERNELS_CPU_CORE_LANES_PLAIN_SQUARE_ROOT_H_

#include "plain.h"

namespace ryot {
namespace {

RYOT_INLINE Vector square_root(Vector x) {
  for (long i = 0; i < kLanes; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_LANES_PLAIN_SQUARE_ROOT_H_
