// Opens a target: the code up to core/end_target.h is compiled for RYOT_TARGET_ATTRIBUTE.
//
// A target's file defines RYOT_TARGET_ATTRIBUTE, RYOT_LANES, RYOT_SCALAR and RYOT_MICRO_KERNEL, and `Traits`, before it
// includes this header. Headers of the standard library are included before that: none of it may be compiled with these
// instructions, since the linker keeps one copy of an inline function for all translation units (see core/parallel.h).
#ifndef RYOT_KERNELS_CPU_CORE_BEGIN_TARGET_H_
#define RYOT_KERNELS_CPU_CORE_BEGIN_TARGET_H_

#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <initializer_list>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "cache_sizes.h"
#include "kernels.h"
#include "targets.h"

#define RYOT_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define RYOT_OPEN_TARGET(attribute) \
  RYOT_PRAGMA(clang attribute push(__attribute__((target(attribute))), apply_to = function))
#define RYOT_CLOSE_TARGET RYOT_PRAGMA(clang attribute pop)
#else
#define RYOT_OPEN_TARGET(attribute) RYOT_PRAGMA(GCC push_options) RYOT_PRAGMA(GCC target(attribute))
#define RYOT_CLOSE_TARGET RYOT_PRAGMA(GCC pop_options)
#endif

RYOT_OPEN_TARGET(RYOT_TARGET_ATTRIBUTE)

#endif  // RYOT_KERNELS_CPU_CORE_BEGIN_TARGET_H_
