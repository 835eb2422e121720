// Tile registers in memory, for processors without AMX to test what is built on them: the same shapes and the same order
// of sums as TDPBF16PS (Intel, "Instruction Set Extensions Programming Reference", chapter 3), and a trap where the
// processor would raise an exception. AMX takes subnormal numbers for zero; this does not.
#ifndef RYOT_KERNELS_CPU_CORE_TILES_EMULATED_H_
#define RYOT_KERNELS_CPU_CORE_TILES_EMULATED_H_

#include "shape.h"

namespace ryot {
namespace {

static_assert(kLanes == kTileSide, "a row of a tile is a vector");

struct TileRegisters {
  TileShapes shapes;
  alignas(64) Word words[8][kTileSide][kTileSide];
};
static thread_local TileRegisters tile_registers;

RYOT_NOINLINE void tiles_configure(const TileShapes& shapes) {
  if (shapes.palette != 1) __builtin_trap();
  for (long tile = 0; tile < 8; ++tile)
    if (shapes.rows[tile] > kTileSide || shapes.row_bytes[tile] > 4 * kTileSide ||
        (shapes.rows[tile] == 0) != (shapes.row_bytes[tile] == 0))
      __builtin_trap();
  __builtin_memset(&tile_registers, 0, sizeof tile_registers);
  tile_registers.shapes = shapes;
}
RYOT_NOINLINE void tiles_release() { __builtin_memset(&tile_registers, 0, sizeof tile_registers); }

// The words of a tile, which must have a shape.
RYOT_NOINLINE Word (&tile_words(int tile))[kTileSide][kTileSide] {
  if (tile_registers.shapes.palette != 1 || tile_registers.shapes.rows[tile] == 0) __builtin_trap();
  return tile_registers.words[tile];
}
RYOT_NOINLINE void zero_tile(int tile) { __builtin_memset(tile_words(tile), 0, sizeof tile_registers.words[tile]); }
RYOT_NOINLINE void load_tile(int tile, const void* p, long row_words) {
  zero_tile(tile);
  for (long m = 0; m < tile_registers.shapes.rows[tile]; ++m)
    __builtin_memcpy(tile_words(tile)[m], static_cast<const Word*>(p) + m * row_words,
                     tile_registers.shapes.row_bytes[tile]);
}
RYOT_NOINLINE void store_tile(int tile, void* p, long row_words) {
  for (long m = 0; m < tile_registers.shapes.rows[tile]; ++m)
    __builtin_memcpy(static_cast<Word*>(p) + m * row_words, tile_words(tile)[m],
                     tile_registers.shapes.row_bytes[tile]);
}
RYOT_NOINLINE void multiply_add_tiles(int sum_tile, int left_tile, int right_tile) {
  const TileShapes& shapes = tile_registers.shapes;
  auto &sum = tile_words(sum_tile), &left = tile_words(left_tile), &right = tile_words(right_tile);
  const long steps = shapes.rows[right_tile];
  if (shapes.rows[sum_tile] != shapes.rows[left_tile] || shapes.row_bytes[sum_tile] != shapes.row_bytes[right_tile] ||
      shapes.row_bytes[left_tile] != 4 * steps)
    __builtin_trap();
  for (long m = 0; m < shapes.rows[sum_tile]; ++m) {
    Vector firsts = Vector{}, seconds = Vector{};
    for (long k = 0; k < steps; ++k) {
      const Bfloat16 first = {static_cast<uint16_t>(left[m][k])}, second = {static_cast<uint16_t>(left[m][k] >> 16)};
      const IntVector pairs = reinterpret_cast<IntVector>(load_words(right[k]));
      firsts += to_float(first) * reinterpret_cast<Vector>(pairs << 16);
      seconds += to_float(second) * reinterpret_cast<Vector>(pairs & static_cast<int>(0xffff0000));
    }
    float* const out = reinterpret_cast<float*>(sum[m]);
    store(out, load(out) + (firsts + seconds));
  }
}

// Instructions name tiles by constants, and so do these.
template <int kTile>
RYOT_INLINE void tile_zero() {
  zero_tile(kTile);
}
template <int kTile>
RYOT_INLINE void tile_load(const void* p, long row_words) {
  load_tile(kTile, p, row_words);
}
template <int kTile>
RYOT_INLINE void tile_store(void* p, long row_words) {
  store_tile(kTile, p, row_words);
}
template <int kSum, int kLeft, int kRight>
RYOT_INLINE void tile_multiply_add() {
  multiply_add_tiles(kSum, kLeft, kRight);
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_TILES_EMULATED_H_
