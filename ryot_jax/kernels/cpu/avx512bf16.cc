// The kernels for x86-64 with avx512bf16,avx512f,avx512vl,avx512bw,avx512dq,avx2,fma.
//
// Headers come first: nothing of the standard library may be compiled with these instructions (see parallel.h).
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512bf16,avx512f,avx512vl,avx512bw,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512bf16,avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")
#endif

namespace ryot {
namespace {
#define RYOT_VECTOR_BYTES 64
#define RYOT_TILE_ROWS 12
#define RYOT_BFLOAT16 1
#include "all.inc"
}  // namespace

const Kernels kAvx512Bf16Kernels = {dense_forward,     dense_backward,     norm_forward,         norm_backward,
                        attention_forward, attention_backward, linear_cross_entropy, embedding_backward,
                        adamw,             decode_step,        pack_weights,         kPanel,
                        kGroup};

}  // namespace ryot

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // __x86_64__
