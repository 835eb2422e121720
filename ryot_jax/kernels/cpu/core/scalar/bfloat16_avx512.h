// Arrays and operands of bfloat16: products by AVX512-BF16, which adds two products to a float32 at a time.
#ifndef RYOT_KERNELS_CPU_CORE_SCALAR_BFLOAT16_AVX512_H_
#define RYOT_KERNELS_CPU_CORE_SCALAR_BFLOAT16_AVX512_H_

#include "../lanes.h"
#include "../vector.h"
#include "bfloat16_tensors.h"

namespace ryot {
namespace {

RYOT_INLINE Vector load(const Bfloat16* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return reinterpret_cast<Vector>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
// Rounds to nearest, ties to even.
RYOT_INLINE void store(Bfloat16* p, Vector v) {
  const __m256bh rounded = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(v));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(rounded));
}

using Operand = Bfloat16;
constexpr long kGroup = 2;

RYOT_INLINE Vector multiply_add(Vector sum, const Word* left, Vector right) {
  const __m512i splat_left = _mm512_set1_epi32(static_cast<int>(*left));
  return reinterpret_cast<Vector>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(right),
                                                   reinterpret_cast<__m512bh>(splat_left)));
}
// Stores kLanes words, each made of a lane of kGroup vectors, consecutive along the summed dimension.
RYOT_INLINE void store_words(Word* p, const Vector (&scalars)[kGroup]) {
  alignas(64) static const uint16_t kInterleave[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                       8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512bh rounded =
      _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(scalars[1]), reinterpret_cast<__m512>(scalars[0]));
  _mm512_storeu_si512(
      p, _mm512_permutexvar_epi16(_mm512_load_si512(kInterleave), reinterpret_cast<__m512i>(rounded)));
}
RYOT_INLINE Word scalar_bits(Bfloat16 x) { return x.bits; }
RYOT_INLINE Word scalar_bits(float x) {
  Bfloat16 lanes[kLanes];
  store(lanes, splat(x));
  return lanes[0].bits;
}

// Packs kPanelVectors * kLanes columns of two neighbouring rows, row_stride apart, into as many words.
RYOT_INLINE __m512i load_32(const Bfloat16* p) { return _mm512_loadu_si512(p); }
RYOT_INLINE __m512i load_32(const float* p) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(_mm512_loadu_ps(p + 16), _mm512_loadu_ps(p)));
}
template <typename Number>
RYOT_INLINE void pack_rows(const Number* p, long row_stride, Word* out) {
  alignas(64) static const uint16_t kLow[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i low = _mm512_load_si512(kLow), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  const __m512i even = load_32(p), odd = load_32(p + row_stride);
  _mm512_storeu_si512(out, _mm512_permutex2var_epi16(even, low, odd));
  _mm512_storeu_si512(out + kLanes, _mm512_permutex2var_epi16(even, high, odd));
}

// Packs kLanes columns of kGroup neighbouring rows, row_stride apart, into kLanes words.
RYOT_INLINE void pack_vector(const Operand* p, long row_stride, Word* out) {
  const __m512i even = reinterpret_cast<__m512i>(load(p)), odd = reinterpret_cast<__m512i>(load(p + row_stride));
  _mm512_storeu_si512(out, _mm512_or_si512(_mm512_srli_epi32(even, 16), odd));
}

constexpr float kLog2E = 1.44269504088896341f;

// 1 / x to 14 bits, enough for results that are rounded to bfloat16 (2^-9).
RYOT_INLINE Vector reciprocal(Vector x) { return reinterpret_cast<Vector>(_mm512_rcp14_ps(reinterpret_cast<__m512>(x))); }

// 2^p for results that are rounded to bfloat16 or only need to be as accurate as bfloat16 operands: relative error
// below 3e-6, where that of a rounding is 2e-3. 2^0 is exactly 1; infinity and NaN are handled correctly.
RYOT_INLINE Vector power_of_two(Vector p) {
  const __m512 power = reinterpret_cast<__m512>(p);
  const Vector f = reinterpret_cast<Vector>(_mm512_reduce_ps(power, 9));  // p - floor(p), silently; 0 for infinity
  // 2^f, 0 <= f <= 1, with the smallest maximal relative error that four coefficients after the 1 allow.
  Vector q = splat(1.34266848e-2f);
  q = q * f + 5.22424728e-2f;
  q = q * f + 2.41280198e-1f;
  q = q * f + 6.93044841e-1f;
  q = q * f + 1.0f;
  return reinterpret_cast<Vector>(_mm512_scalef_ps(reinterpret_cast<__m512>(q), power));  // q * 2^floor(p)
}
// exp(scale x - shift), at most about 1: the terms of a softmax.
RYOT_INLINE Vector softmax_term(Vector x, float scale, Vector shift) {
  return power_of_two(x * (scale * kLog2E) - shift * kLog2E);
}

// 1 / (1 + 2^p)
RYOT_INLINE Vector logistic_of_power(Vector p) { return reciprocal(1.0f + power_of_two(p)); }

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_SCALAR_BFLOAT16_AVX512_H_
