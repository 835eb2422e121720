// Scalar = float32.
#ifndef RYOT_KERNELS_CPU_CORE_SCALAR_FLOAT32_H_
#define RYOT_KERNELS_CPU_CORE_SCALAR_FLOAT32_H_

#include "../kernels.h"
#include "../lanes.h"
#include "../vector.h"

namespace ryot {
namespace {

// Loads n elements of a tensor from element i on.
RYOT_INLINE Vector load_some(const Tensor& tensor, long i, long n) {
  return load_some(static_cast<const float*>(tensor.data) + i, n);
}
RYOT_INLINE void store_some(const Tensor& tensor, long i, long n, Vector v) {
  store_some(static_cast<float*>(tensor.data) + i, n, v);
}

// Calls body(data) with a pointer of the tensor's type.
template <typename Body>
RYOT_INLINE void with_type(const Tensor& tensor, Body body) {
  body(static_cast<float*>(tensor.data));
}

using Scalar = float;
constexpr long kGroup = 1;
constexpr bool kScalarIsBfloat16 = false;

RYOT_INLINE Vector multiply_add(Vector sum, const Word* left, Vector right) {
  return sum + *reinterpret_cast<const float*>(left) * right;
}
RYOT_INLINE void store_words(Word* p, const Vector (&scalars)[kGroup]) {
  store(reinterpret_cast<float*>(p), scalars[0]);
}
RYOT_INLINE Word scalar_bits(float x) {
  Word bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

// Packs Traits::kPanelVectors vectors of columns of one row into as many vectors of words.
template <typename Number>
RYOT_INLINE void pack_rows(const Number* p, long, Word* out) {
  for (long v = 0; v < Traits::kPanelVectors; ++v) store(reinterpret_cast<float*>(out) + v * kLanes, load(p + v * kLanes));
}

// Packs kLanes columns of kGroup neighbouring rows, row_stride apart, into kLanes words.
RYOT_INLINE void pack_vector(const Scalar* p, long row_stride, Word* out) {
  (void)row_stride;
  store(reinterpret_cast<float*>(out), load(p));
}

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

#endif  // RYOT_KERNELS_CPU_CORE_SCALAR_FLOAT32_H_
