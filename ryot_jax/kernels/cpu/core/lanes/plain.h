// Functions across and on lanes by the compiler's vector extensions alone, for any width of at least four lanes.
#ifndef RYOT_KERNELS_CPU_CORE_LANES_PLAIN_H_
#define RYOT_KERNELS_CPU_CORE_LANES_PLAIN_H_

#include "../vector.h"

namespace ryot {
namespace {

// Reductions over all lanes: halves are folded onto each other until four lanes are left.
template <long kCount>
struct Lanes {
  typedef float type __attribute__((vector_size(kCount * sizeof(float))));
};
template <long kCount, typename Fold>
RYOT_INLINE Lanes<4>::type fold_to_four(typename Lanes<kCount>::type v, Fold fold) {
  if constexpr (kCount == 4) {
    return v;
  } else {
    typename Lanes<kCount / 2>::type half[2];
    __builtin_memcpy(half, &v, sizeof half);
    return fold_to_four<kCount / 2>(fold(half[0], half[1]), fold);
  }
}
RYOT_INLINE float horizontal_sum(Vector v) {
  const auto sum = fold_to_four<kLanes>(v, [](auto a, auto b) RYOT_ALWAYS_INLINE { return a + b; });
  return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}
RYOT_INLINE float horizontal_max(Vector v) {
  const auto top = fold_to_four<kLanes>(v, [](auto a, auto b) RYOT_ALWAYS_INLINE { return a > b ? a : b; });
  const float even = top[0] > top[2] ? top[0] : top[2], odd = top[1] > top[3] ? top[1] : top[3];
  return even > odd ? even : odd;
}

// exp(x) for x <= 0, as 2^n p(f) with n = round(x log2(e)), f = x log2(e) - n.
// NaN is kept; -inf gives 0. Relative error below 2e-7.
RYOT_INLINE Vector exp_nonpositive(Vector x) {
  const Vector clamped = x < -87.0f ? splat(-87.0f) : x;
  const Vector magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to the nearest integer
  const Vector n = (clamped * 1.44269504088896341f + magic) - magic;
  // r = x - n ln 2 in two parts (Cody and Waite), and the polynomial of Cephes' expf
  const Vector r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  Vector p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const IntVector exponent = (__builtin_convertvector(n, IntVector) + 127) << 23;
  return x < -87.0f ? Vector{} : p * reinterpret_cast<Vector>(exponent);
}

// Transposes 16 x 16 words in place; rows are 16 words apart.
RYOT_INLINE void transpose16x16(Word (&block)[16][16]) {
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < i; ++j) {
      const Word word = block[i][j];
      block[i][j] = block[j][i];
      block[j][i] = word;
    }
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_LANES_PLAIN_H_
