// The kernels for x86-64 with avx2,fma.
//
// Headers come first: nothing of the standard library may be compiled with these instructions (see parallel.h).
#include <cstdint>
#include <cstdlib>

#include "kernels.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

namespace ryot {
namespace {
#define RYOT_VECTOR_BYTES 32
#define RYOT_TILE_ROWS 6
#include "simd.inc"
#include "gemm.inc"
#include "linear_cross_entropy.inc"
#include "attention.inc"
}  // namespace

const Kernels kAvx2Kernels = {linear_cross_entropy, attention_forward, attention_backward};

}  // namespace ryot

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // __x86_64__
