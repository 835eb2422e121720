// Functions across and on the 16 lanes of AVX-512.
#ifndef RYOT_KERNELS_CPU_CORE_LANES_AVX512_H_
#define RYOT_KERNELS_CPU_CORE_LANES_AVX512_H_

#include "../vector.h"

namespace ryot {
namespace {

RYOT_INLINE float horizontal_sum(Vector v) { return _mm512_reduce_add_ps(reinterpret_cast<__m512>(v)); }
RYOT_INLINE float horizontal_max(Vector v) { return _mm512_reduce_max_ps(reinterpret_cast<__m512>(v)); }
RYOT_INLINE Vector square_root(Vector x) {
  return reinterpret_cast<Vector>(_mm512_sqrt_ps(reinterpret_cast<__m512>(x)));
}

// exp(x) for x <= 0, as 2^n p(f) with n = round(x log2(e)), f = x log2(e) - n.
// NaN is kept; -inf gives 0. Relative error below 2e-7.
RYOT_INLINE Vector exp_nonpositive(Vector x) {
  // Far enough below the logarithm of the smallest float; the order of the operands keeps a NaN.
  const __m512 clamped = _mm512_max_ps(_mm512_set1_ps(-200.0f), reinterpret_cast<__m512>(x));
  const __m512 log2e = _mm512_set1_ps(1.44269504088896341f);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(clamped, log2e), 8);  // to the nearest integer, silently
  // log2(e) in two parts: the second is the rounding error of the first.
  const __m512 rest = _mm512_fmadd_ps(clamped, _mm512_set1_ps(1.925963033e-8f), _mm512_fmsub_ps(clamped, log2e, n));
  const Vector f = reinterpret_cast<Vector>(rest);
  // The Taylor series of 2^f, |f| <= 1/2.
  Vector p = splat(1.5403530e-4f);
  p = p * f + 1.3333558e-3f;
  p = p * f + 9.6181291e-3f;
  p = p * f + 5.5504109e-2f;
  p = p * f + 2.4022651e-1f;
  p = p * f + 6.9314718e-1f;
  p = p * f + 1.0f;
  return reinterpret_cast<Vector>(_mm512_scalef_ps(reinterpret_cast<__m512>(p), n));
}

// Transposes 16 x 16 words in place; rows are 16 words apart.
RYOT_INLINE void transpose16x16(Word (&block)[16][16]) {
  __m512i r[16], t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = _mm512_load_si512(block[i]);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {  // pairs of words
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {  // fours
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // and the 4 x 4 blocks of fours
    const __m512i a = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88), b = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    const __m512i c = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    const __m512i d = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    _mm512_store_si512(block[i], _mm512_shuffle_i32x4(a, c, 0x88));
    _mm512_store_si512(block[i + 4], _mm512_shuffle_i32x4(b, d, 0x88));
    _mm512_store_si512(block[i + 8], _mm512_shuffle_i32x4(a, c, 0xdd));
    _mm512_store_si512(block[i + 12], _mm512_shuffle_i32x4(b, d, 0xdd));
  }
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_LANES_AVX512_H_
