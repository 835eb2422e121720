// Arrays of bfloat16: tensors may hold it or float32. `load` and `store` of Bfloat16 are the includer's.
#ifndef RYOT_KERNELS_CPU_CORE_SCALAR_BFLOAT16_TENSORS_H_
#define RYOT_KERNELS_CPU_CORE_SCALAR_BFLOAT16_TENSORS_H_

#include "../kernels.h"
#include "../vector.h"

namespace ryot {
namespace {

using Scalar = Bfloat16;
constexpr bool kScalarIsBfloat16 = true;

// Loads n elements of a tensor from element i on.
RYOT_INLINE Vector load_some(const Tensor& tensor, long i, long n) {
  if (tensor.is_bfloat16) return load_some(static_cast<const Bfloat16*>(tensor.data) + i, n);
  return load_some(static_cast<const float*>(tensor.data) + i, n);
}
RYOT_INLINE void store_some(const Tensor& tensor, long i, long n, Vector v) {
  if (tensor.is_bfloat16) {
    store_some(static_cast<Bfloat16*>(tensor.data) + i, n, v);
    return;
  }
  store_some(static_cast<float*>(tensor.data) + i, n, v);
}

// Calls body(data) with a pointer of the tensor's type.
template <typename Body>
RYOT_INLINE void with_type(const Tensor& tensor, Body body) {
  if (tensor.is_bfloat16) return body(static_cast<Bfloat16*>(tensor.data));
  body(static_cast<float*>(tensor.data));
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_SCALAR_BFLOAT16_TENSORS_H_
