// Functions of results that are not rounded to bfloat16.
#ifndef RYOT_KERNELS_CPU_CORE_SCALAR_FLOAT32_FUNCTIONS_H_
#define RYOT_KERNELS_CPU_CORE_SCALAR_FLOAT32_FUNCTIONS_H_

#include "../lanes.h"

namespace ryot {
namespace {

constexpr float kLog2E = 1.44269504088896341f;

RYOT_INLINE Vector reciprocal(Vector x) { return 1.0f / x; }

// exp(scale x - shift), at most about 1: the terms of a softmax.
RYOT_INLINE Vector softmax_term(Vector x, float scale, Vector shift) { return exp_nonpositive(x * scale - shift); }

// 1 / (1 + 2^p)
RYOT_INLINE Vector logistic_of_power(Vector p) {
  const Vector x = p * -0.69314718f;
  const Vector e = exp_nonpositive(x < 0.0f ? x : -x);
  const Vector s = reciprocal(1.0f + e);
  return x < 0.0f ? e * s : s;
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_SCALAR_FLOAT32_FUNCTIONS_H_
