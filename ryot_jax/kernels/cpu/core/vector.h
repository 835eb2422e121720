// Vectors of float32 as wide as the target's registers: loads, stores, and the partial vectors at the end of a row.
#ifndef RYOT_KERNELS_CPU_CORE_VECTOR_H_
#define RYOT_KERNELS_CPU_CORE_VECTOR_H_

#include <cstdint>

#include "target.h"

namespace ryot {
namespace {

constexpr long kLanes = Traits::kVectorBytes / sizeof(float);
typedef float Vector __attribute__((vector_size(Traits::kVectorBytes)));
typedef float UnalignedVector __attribute__((vector_size(Traits::kVectorBytes), aligned(4)));
typedef int32_t IntVector __attribute__((vector_size(Traits::kVectorBytes)));

// Operands of products consist of words of 32 bits: kGroup scalars that are neighbours along the summed dimension.
using Word = uint32_t;

struct Bfloat16 {
  uint16_t bits;
};

RYOT_INLINE Vector splat(float s) { return Vector{} + s; }
RYOT_INLINE Vector load(const float* p) { return *reinterpret_cast<const UnalignedVector*>(p); }
RYOT_INLINE void store(float* p, Vector v) { *reinterpret_cast<UnalignedVector*>(p) = v; }

RYOT_INLINE Vector load_words(const Word* p) { return load(reinterpret_cast<const float*>(p)); }

RYOT_INLINE float to_float(float x) { return x; }
RYOT_INLINE float to_float(Bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float result;
  __builtin_memcpy(&result, &bits, sizeof result);
  return result;
}

// Loads p[0, n), n <= kLanes, as a vector with the rest filled.
template <typename Number>
RYOT_NOINLINE Vector load_partial(const Number* p, long n, float fill) {
  float lanes[kLanes];
  for (long i = 0; i < kLanes; ++i) lanes[i] = i < n ? to_float(p[i]) : fill;
  return load(lanes);
}
template <typename Number>
RYOT_NOINLINE void store_partial(Number* p, long n, Vector v) {
  Number lanes[kLanes];
  store(lanes, v);
  for (long i = 0; i < n; ++i) p[i] = lanes[i];
}
// Loads likewise, for an n that is nearly always kLanes.
template <typename Number>
RYOT_INLINE Vector load_some(const Number* p, long n, float fill = 0.0f) {
  return n >= kLanes ? load(p) : load_partial(p, n, fill);
}
template <typename Number>
RYOT_INLINE void store_some(Number* p, long n, Vector v) {
  if (n >= kLanes) store(p, v);
  else store_partial(p, n, v);
}

// Calls body(i, valid) for the vectors of [0, n): i is the first element, valid the number of those that exist, a
// constant kLanes except in the last vector.
template <typename Body>
RYOT_INLINE void each_vector(long n, Body body) {
  long i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, kLanes);
  if (i < n) body(i, n - i);
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_VECTOR_H_
