// The plain functions, with AVX's square root.
#ifndef RYOT_KERNELS_CPU_CORE_LANES_AVX2_H_
#define RYOT_KERNELS_CPU_CORE_LANES_AVX2_H_

#include "plain.h"

namespace ryot {
namespace {

RYOT_INLINE Vector square_root(Vector x) {
  return reinterpret_cast<Vector>(_mm256_sqrt_ps(reinterpret_cast<__m256>(x)));
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_LANES_AVX2_H_
