// Functions of vectors and of rows of float32 that are the same for every target.
#ifndef RYOT_KERNELS_CPU_CORE_FUNCTIONS_H_
#define RYOT_KERNELS_CPU_CORE_FUNCTIONS_H_

#include "scalar.h"
#include "vector.h"

namespace ryot {
namespace {

// log(x) for x >= 0, as e log(2) + log(m) with x = 2^e m, m in [sqrt(1/2), sqrt(2)), and the polynomial of Cephes'
// logf. The error is below 2e-7 of the larger of log(x) and 1; NaN and infinity are kept, subnormal x counts as 0.
RYOT_INLINE Vector log_of(Vector x) {
  const IntVector bits = reinterpret_cast<IntVector>(x);
  const IntVector exponent = ((bits - 0x3f3504f3) >> 23);  // of m = sqrt(1/2), as is
  const Vector m = reinterpret_cast<Vector>(bits - (exponent << 23)) - 1.0f;
  Vector p = splat(7.0376836292e-2f);
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  const Vector e = __builtin_convertvector(exponent, Vector);
  const Vector square = m * m;
  Vector log = m * square * p + e * -2.12194440e-4f;  // log(2) in two parts
  log = log - 0.5f * square + m + e * 0.693359375f;
  log = x < 1.17549435e-38f ? splat(-__builtin_inff()) : log;
  return x < __builtin_inff() ? log : x;
}

RYOT_INLINE Vector sigmoid(Vector x) { return logistic_of_power(x * -kLog2E); }

// Activations with their derivatives, here called slopes. gelu is the tanh form, by 1 + tanh(u) = 2 sigmoid(2 u).
struct Activated {
  Vector value, slope;
};
RYOT_INLINE Activated gelu(Vector x) {
  constexpr float kA = 1.5957691216057308f, kB = 0.044715f;  // 2 sqrt(2 / pi)
  const Vector x2 = x * x;
  const Vector s = logistic_of_power(x * (-kLog2E * kA - kLog2E * kA * kB * x2));
  const Vector value = x * s;
  return {value, s + (value - value * s) * (kA + 3.0f * kA * kB * x2)};
}
RYOT_INLINE Vector relu(Vector x) { return x < 0.0f ? Vector{} : x; }  // NaN stays NaN

// max over p[0, n), n >= 1
RYOT_INLINE float max_of(const float* p, long n) {
  Vector top = splat(-__builtin_inff()), top_2 = top;
  long i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    const Vector a = load(p + i), b = load(p + i + kLanes);
    top = a > top ? a : top;
    top_2 = b > top_2 ? b : top_2;
  }
  top = top_2 > top ? top_2 : top;
  for (; i < n; i += kLanes) {
    const Vector a = load_some(p + i, n - i, -__builtin_inff());
    top = a > top ? a : top;
  }
  return horizontal_max(top);
}

// sums[i] = the sum over rows of p[row * row_stride + i], i < n.
RYOT_INLINE void sum_rows(const float* p, long rows, long row_stride, long n, float* sums) {
  each_vector(n, [=](long i, long valid) RYOT_ALWAYS_INLINE {
    Vector sum = Vector{};
    for (long row = 0; row < rows; ++row) sum += load_some(p + row * row_stride + i, valid);
    store_some(sums + i, valid, sum);
  });
}

RYOT_INLINE float sum_of(const float* p, long n) {
  Vector sum = Vector{};
  each_vector(n, [&](long i, long valid) RYOT_ALWAYS_INLINE { sum += load_some(p + i, valid); });
  return horizontal_sum(sum);
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_FUNCTIONS_H_
