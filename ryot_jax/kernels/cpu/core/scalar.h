// The target's choice of element types: Scalar (and kScalarIsBfloat16), of the arrays that ops read and write, with its
// loads and stores; Operand, of the operands of products, kGroup of them a word, with their words and multiply_add; and
// the functions whose accuracy depends on these (reciprocal, softmax_term, logistic_of_power).
#ifndef RYOT_KERNELS_CPU_CORE_SCALAR_H_
#define RYOT_KERNELS_CPU_CORE_SCALAR_H_

#include "target.h"
#include RYOT_SCALAR

namespace ryot {
namespace {

// Whether arrays of Scalar can be operands where they are.
constexpr bool kScalarIsOperand = kScalarIsBfloat16 == (kGroup == 2);

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_SCALAR_H_
