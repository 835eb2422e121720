// The shapes of the eight tile registers, in the layout of the instruction that loads them.
#ifndef RYOT_KERNELS_CPU_CORE_TILES_SHAPE_H_
#define RYOT_KERNELS_CPU_CORE_TILES_SHAPE_H_

#include "../vector.h"

namespace ryot {
namespace {

// Rows, and words of a row, of a whole tile.
constexpr long kTileSide = 16;

struct alignas(64) TileShapes {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileShapes) == 64, "the instruction reads 64 bytes");

// Tiles 0 to 3 are the results of 2 x 2 products of the left operands 4 and 5 and the right ones 6 and 7: `upper` and
// `lower` rows, each of 1 to kTileSide or, of the lower ones, none; `steps` words along the sum.
RYOT_INLINE constexpr TileShapes tile_shapes(long upper, long lower, long steps) {
  TileShapes shapes = {};
  shapes.palette = 1;
  const auto set = [&](long tile, long rows, long row_words) {
    if (rows == 0) return;
    shapes.rows[tile] = static_cast<uint8_t>(rows), shapes.row_bytes[tile] = static_cast<uint16_t>(4 * row_words);
  };
  set(0, upper, kTileSide), set(1, upper, kTileSide), set(2, lower, kTileSide), set(3, lower, kTileSide);
  set(4, upper, steps), set(5, lower, steps);
  set(6, steps, kTileSide), set(7, steps, kTileSide);
  return shapes;
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_TILES_SHAPE_H_
