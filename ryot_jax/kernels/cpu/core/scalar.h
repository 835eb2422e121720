// The type that products take their operands in, as the target chose it: Scalar, kGroup, kScalarIsBfloat16; loads, stores
// and words of it; multiply_add; and the functions whose digits depend on it (reciprocal, softmax_term, logistic_of_power).
#ifndef RYOT_KERNELS_CPU_CORE_SCALAR_H_
#define RYOT_KERNELS_CPU_CORE_SCALAR_H_

#include "target.h"
#include RYOT_SCALAR

#endif  // RYOT_KERNELS_CPU_CORE_SCALAR_H_
