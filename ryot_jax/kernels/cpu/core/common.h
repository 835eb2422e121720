// Attributes and integer functions shared by all code compiled for a target.
#ifndef RYOT_KERNELS_CPU_CORE_COMMON_H_
#define RYOT_KERNELS_CPU_CORE_COMMON_H_

// Placed after a lambda's parameters: `[=](long i) RYOT_ALWAYS_INLINE { ... }`.
#define RYOT_ALWAYS_INLINE __attribute__((always_inline))
#define RYOT_INLINE static inline RYOT_ALWAYS_INLINE
#define RYOT_NOINLINE static __attribute__((noinline))

namespace ryot {
namespace {

RYOT_INLINE constexpr long smaller(long a, long b) { return a < b ? a : b; }
RYOT_INLINE constexpr long larger(long a, long b) { return a > b ? a : b; }
RYOT_INLINE constexpr long divide_up(long a, long b) { return (a + b - 1) / b; }
RYOT_INLINE constexpr long round_up(long n, long multiple) { return divide_up(n, multiple) * multiple; }

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_COMMON_H_
