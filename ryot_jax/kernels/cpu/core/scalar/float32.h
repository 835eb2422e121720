// Arrays and operands of float32.
#ifndef RYOT_KERNELS_CPU_CORE_SCALAR_FLOAT32_H_
#define RYOT_KERNELS_CPU_CORE_SCALAR_FLOAT32_H_

#include "../kernels.h"
#include "float32_functions.h"
#include "float32_operands.h"

namespace ryot {
namespace {

using Scalar = float;
constexpr bool kScalarIsBfloat16 = false;

// Loads n elements of a tensor from element i on.
RYOT_INLINE Vector load_some(const Tensor& tensor, long i, long n) {
  return load_some(static_cast<const float*>(tensor.data) + i, n);
}
RYOT_INLINE void store_some(const Tensor& tensor, long i, long n, Vector v) {
  store_some(static_cast<float*>(tensor.data) + i, n, v);
}

// Calls body(data) with a pointer of the tensor's type.
template <typename Body>
RYOT_INLINE void with_type(const Tensor& tensor, Body body) {
  body(static_cast<float*>(tensor.data));
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_SCALAR_FLOAT32_H_
