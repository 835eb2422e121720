// The target's choice of micro-kernel; core/broadcast_kernel.h lists the functions that one provides.
#ifndef RYOT_KERNELS_CPU_CORE_MICRO_KERNEL_H_
#define RYOT_KERNELS_CPU_CORE_MICRO_KERNEL_H_

#include "target.h"
#include RYOT_MICRO_KERNEL

#endif  // RYOT_KERNELS_CPU_CORE_MICRO_KERNEL_H_
