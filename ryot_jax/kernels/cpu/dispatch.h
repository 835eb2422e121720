// The best kernels that this processor can run.
#ifndef RYOT_KERNELS_CPU_DISPATCH_H_
#define RYOT_KERNELS_CPU_DISPATCH_H_

#include "kernels.h"

namespace ryot {

// Kernels whose Scalar is float32 or bfloat16, or null where the processor lacks the instructions for them.
inline const Kernels* best_kernels(bool bfloat16) {
#if defined(__x86_64__)
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  if (bfloat16) return avx512 && __builtin_cpu_supports("avx512bf16") ? &kAvx512Bf16Kernels : nullptr;
  if (avx512) return &kAvx512Kernels;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &kAvx2Kernels;
#else
  (void)bfloat16;
#endif
  return nullptr;
}

}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_DISPATCH_H_
