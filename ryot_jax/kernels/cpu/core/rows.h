// Rows of tensors of either element type.
#ifndef RYOT_KERNELS_CPU_CORE_ROWS_H_
#define RYOT_KERNELS_CPU_CORE_ROWS_H_

#include "kernels.h"
#include "scalar.h"
#include "vector.h"

namespace ryot {
namespace {

// Calls body(i, vector) for the vectors of one row of n elements, with zeros beyond its end.
template <typename Body>
RYOT_INLINE void load_row(const Tensor& tensor, long row, long n, Body body) {
  with_type(tensor, [=](const auto* data) RYOT_ALWAYS_INLINE {
    each_vector(n, [=](long i, long valid) RYOT_ALWAYS_INLINE {
      body(i, load_some(data + row * n + i, valid));
    });
  });
}
// Stores body(i, valid) as the vectors of one row of n elements.
template <typename Body>
RYOT_INLINE void store_row(const Tensor& tensor, long row, long n, Body body) {
  with_type(tensor, [=](auto* data) RYOT_ALWAYS_INLINE {
    each_vector(n, [=](long i, long valid) RYOT_ALWAYS_INLINE {
      store_some(data + row * n + i, valid, body(i, valid));
    });
  });
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_ROWS_H_
