// The target's choice of operand type for products: Scalar, kGroup, kScalarIsBfloat16; its loads, stores and words;
// multiply_add; and the functions whose accuracy depends on it (reciprocal, softmax_term, logistic_of_power).
#ifndef RYOT_KERNELS_CPU_CORE_SCALAR_H_
#define RYOT_KERNELS_CPU_CORE_SCALAR_H_

#include "target.h"
#include RYOT_SCALAR

#endif  // RYOT_KERNELS_CPU_CORE_SCALAR_H_
