// The target's choice of functions across and on lanes: horizontal_sum, horizontal_max, square_root, exp_nonpositive,
// transpose16x16.
#ifndef RYOT_KERNELS_CPU_CORE_LANES_H_
#define RYOT_KERNELS_CPU_CORE_LANES_H_

#include "target.h"
#include RYOT_LANES

#endif  // RYOT_KERNELS_CPU_CORE_LANES_H_
