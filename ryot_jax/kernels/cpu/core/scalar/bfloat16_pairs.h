// Arrays and operands of bfloat16 by the compiler's vector extensions, for micro-kernels that bring products of their own.
#ifndef RYOT_KERNELS_CPU_CORE_SCALAR_BFLOAT16_PAIRS_H_
#define RYOT_KERNELS_CPU_CORE_SCALAR_BFLOAT16_PAIRS_H_

#include "bfloat16_plain.h"
#include "bfloat16_tensors.h"
#include "float32_functions.h"

namespace ryot {
namespace {

using Operand = Bfloat16;
constexpr long kGroup = 2;

RYOT_INLINE Vector multiply_add(Vector sum, const Word* left, Vector right) {
  const Bfloat16 first = {static_cast<uint16_t>(*left)}, second = {static_cast<uint16_t>(*left >> 16)};
  const Bits pairs = reinterpret_cast<Bits>(right);
  sum += to_float(second) * reinterpret_cast<Vector>(pairs & 0xffff0000u);
  return sum + to_float(first) * reinterpret_cast<Vector>(pairs << 16);
}
// Stores kLanes words, each made of a lane of kGroup vectors, consecutive along the summed dimension.
RYOT_INLINE void store_words(Word* p, const Vector (&scalars)[kGroup]) {
  const Bits pairs = round_to_bfloat16(scalars[0]) | (round_to_bfloat16(scalars[1]) << 16);
  store(reinterpret_cast<float*>(p), reinterpret_cast<Vector>(pairs));
}
RYOT_INLINE Word scalar_bits(Bfloat16 x) { return x.bits; }
RYOT_INLINE Word scalar_bits(float x) { return round_to_bfloat16(splat(x))[0]; }

// Packs kLanes columns of kGroup neighbouring rows, row_stride apart, into kLanes words.
template <typename Number>
RYOT_INLINE void pack_vector(const Number* p, long row_stride, Word* out) {
  store_words(out, {load(p), load(p + row_stride)});
}
// Packs kPanelVectors * kLanes columns likewise.
template <typename Number>
RYOT_INLINE void pack_rows(const Number* p, long row_stride, Word* out) {
  for (long v = 0; v < Traits::kPanelVectors; ++v) pack_vector(p + v * kLanes, row_stride, out + v * kLanes);
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_SCALAR_BFLOAT16_PAIRS_H_
