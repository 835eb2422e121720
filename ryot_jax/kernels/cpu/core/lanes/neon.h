// The plain functions, with NEON's square root.
#ifndef RYOT_KERNELS_CPU_CORE_LANES_NEON_H_
#define RYOT_KERNELS_CPU_CORE_LANES_NEON_H_

#include "plain.h"

namespace ryot {
namespace {

RYOT_INLINE Vector square_root(Vector x) {
  return reinterpret_cast<Vector>(vsqrtq_f32(reinterpret_cast<float32x4_t>(x)));
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_LANES_NEON_H_
