// The target being compiled: its `Traits`, and the modules that it chose.
//
// Headers that depend on the target include this one. In a translation unit (targets/*.cc) the target is open by then;
// a tool that reads such a header on its own sees the AVX2 target.
#ifndef RYOT_KERNELS_CPU_CORE_TARGET_H_
#define RYOT_KERNELS_CPU_CORE_TARGET_H_

#ifndef RYOT_TARGET_ATTRIBUTE
#define RYOT_TRAITS_ONLY
#include "../targets/avx2.cc"
#endif
#include "common.h"

#endif  // RYOT_KERNELS_CPU_CORE_TARGET_H_
