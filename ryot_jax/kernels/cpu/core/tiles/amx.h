// Tile registers by AMX's instructions. (Written as assembler, as the compilers' macros for them take no constants of
// templates.)
#ifndef RYOT_KERNELS_CPU_CORE_TILES_AMX_H_
#define RYOT_KERNELS_CPU_CORE_TILES_AMX_H_

#include "shape.h"

namespace ryot {
namespace {

// Sets the shapes, and all tiles to zero.
RYOT_INLINE void tiles_configure(const TileShapes& shapes) { asm volatile("ldtilecfg %0" : : "m"(shapes)); }
RYOT_INLINE void tiles_release() { asm volatile("tilerelease"); }

template <int kTile>
RYOT_INLINE void tile_zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
// Rows are row_words apart.
template <int kTile>
RYOT_INLINE void tile_load(const void* p, long row_words) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(kTile), "r"(p), "r"(4 * row_words) : "memory");
}
template <int kTile>
RYOT_INLINE void tile_store(void* p, long row_words) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(kTile), "r"(p), "r"(4 * row_words) : "memory");
}
// sum[m][n] += the products of the pairs of bfloat16 in left[m][k] and right[k][n]
template <int kSum, int kLeft, int kRight>
RYOT_INLINE void tile_multiply_add() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kLeft), "i"(kRight));
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_TILES_AMX_H_
