// The target's choice of tile registers: tiles_configure, tiles_release, tile_zero, tile_load, tile_store and
// tile_multiply_add.
#ifndef RYOT_KERNELS_CPU_CORE_TILES_H_
#define RYOT_KERNELS_CPU_CORE_TILES_H_

#include "target.h"
#include RYOT_TILES

#endif  // RYOT_KERNELS_CPU_CORE_TILES_H_
