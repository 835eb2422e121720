// Operands of float32: a word is one scalar.
#ifndef RYOT_KERNELS_CPU_CORE_SCALAR_FLOAT32_OPERANDS_H_
#define RYOT_KERNELS_CPU_CORE_SCALAR_FLOAT32_OPERANDS_H_

#include "../vector.h"

namespace ryot {
namespace {

using Operand = float;
constexpr long kGroup = 1;

RYOT_INLINE Vector multiply_add(Vector sum, const Word* left, Vector right) {
  return sum + *reinterpret_cast<const float*>(left) * right;
}
RYOT_INLINE void store_words(Word* p, const Vector (&scalars)[kGroup]) {
  store(reinterpret_cast<float*>(p), scalars[0]);
}
template <typename Number>
RYOT_INLINE Word scalar_bits(Number number) {
  const float x = to_float(number);
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
template <typename Number>
RYOT_INLINE void pack_vector(const Number* p, long row_stride, Word* out) {
  (void)row_stride;
  store(reinterpret_cast<float*>(out), load(p));
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_SCALAR_FLOAT32_OPERANDS_H_
