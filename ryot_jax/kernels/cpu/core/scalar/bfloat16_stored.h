// Arrays of bfloat16 and operands of float32, for processors without fast products of bfloat16: what goes to memory is
// half as large, and the copies and packed panels that products read are float32.
#ifndef RYOT_KERNELS_CPU_CORE_SCALAR_BFLOAT16_STORED_H_
#define RYOT_KERNELS_CPU_CORE_SCALAR_BFLOAT16_STORED_H_

#include "bfloat16_plain.h"
#include "bfloat16_tensors.h"
#include "float32_functions.h"
#include "float32_operands.h"

#endif  // RYOT_KERNELS_CPU_CORE_SCALAR_BFLOAT16_STORED_H_
