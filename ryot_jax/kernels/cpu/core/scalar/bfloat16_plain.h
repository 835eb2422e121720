// Loads and stores of bfloat16 by the compiler's vector extensions, for any width.
#ifndef RYOT_KERNELS_CPU_CORE_SCALAR_BFLOAT16_PLAIN_H_
#define RYOT_KERNELS_CPU_CORE_SCALAR_BFLOAT16_PLAIN_H_

#include "../vector.h"

namespace ryot {
namespace {

typedef uint32_t Bits __attribute__((vector_size(Traits::kVectorBytes)));
typedef uint16_t HalfBits __attribute__((vector_size(Traits::kVectorBytes / 2), aligned(2)));

RYOT_INLINE Vector load(const Bfloat16* p) {
  return reinterpret_cast<Vector>(__builtin_convertvector(*reinterpret_cast<const HalfBits*>(p), Bits) << 16);
}
// The bits of bfloat16 in the lower halves of words: rounded to nearest, ties to even; NaN stays NaN.
RYOT_INLINE Bits round_to_bfloat16(Vector v) {
  const Bits bits = reinterpret_cast<Bits>(v), rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return v == v ? rounded : (bits >> 16) | 0x40;
}
RYOT_INLINE void store(Bfloat16* p, Vector v) {
  *reinterpret_cast<HalfBits*>(p) = __builtin_convertvector(round_to_bfloat16(v), HalfBits);
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_SCALAR_BFLOAT16_PLAIN_H_
