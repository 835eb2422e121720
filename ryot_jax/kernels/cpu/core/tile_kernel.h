// The micro-kernel for tile registers, as AMX has them: core/broadcast_kernel.h lists what it provides.
//
// A block of results is 2 x 2 tiles, kBlockRows x kPanel. Its sums go from the tiles to a buffer in the first-level cache,
// from which the epilogue takes vectors: the rows of one block between the products of the next, as tiles and vectors are
// computed by different units. Right panels already have the layout that tiles are loaded from, and so have rows of
// scalars as left operands; transposed left operands are packed as tiles. A sum runs over whole tiles in order, and then
// over the words of an incomplete one; what a row gets does not depend on the other rows.
#ifndef RYOT_KERNELS_CPU_CORE_TILE_KERNEL_H_
#define RYOT_KERNELS_CPU_CORE_TILE_KERNEL_H_

#include "panels.h"
#include "tiles.h"

namespace ryot {
namespace {

constexpr long kTileRows = Traits::kTileRows;
constexpr long kBlockRows = 2 * kTileSide;
constexpr long kLeftBlock = kBlockRows;
constexpr long kLeftSteps = kTileSide;
constexpr long kStoredRows = kBlockRows;
constexpr long kTileWords = kTileSide * kTileSide;
static_assert(kPanel == 2 * kTileSide && kLanes == kTileSide && kGroup == 2, "a panel is two tiles wide");

RYOT_INLINE constexpr long left_words(long K, long M) {
  return round_up(M, kLeftBlock) * round_up(words(K), kLeftSteps);
}

// Left operands: the tile of rows m to m + 15 and of the words from 16 t on is at data + m / 16 * half + t * step, its
// rows `row` words apart.
struct LeftRows {  // rows of scalars, in place
  const Word* data;
  long row;
  long half() const { return kTileSide * row; }
  static constexpr long step = kTileSide;
};
struct LeftBlock {  // tiles made by `pack_left`, the two halves of a block by turns
  const Word* data;
  static constexpr long row = kTileSide, step = 2 * kTileWords;
  static constexpr long half() { return kTileWords; }
};
struct LeftPanel {  // tiles made by `left_panel`, rows as far apart as those of the panel
  const Word* data;
  static constexpr long row = kPanel, step = kTileSide * kPanel;
  static constexpr long half() { return kTileSide; }
};

RYOT_INLINE LeftBlock left_block(const Word* packed, long room, long block, long step) {
  return {packed + (block * room + step) * kLeftBlock};
}
RYOT_INLINE Word* left_step(Word* packed, long step) { return packed + step * kLeftBlock; }

// Transposes kTileSide x kTileSide words in place; rows are row_words apart.
RYOT_INLINE void transpose_tile(Word* p, long row_words) {
  alignas(64) Word block[kTileSide][kTileSide];
  for (long i = 0; i < kTileSide; ++i) __builtin_memcpy(block[i], p + i * row_words, sizeof block[i]);
  transpose16x16(block);
  for (long i = 0; i < kTileSide; ++i) __builtin_memcpy(p + i * row_words, block[i], sizeof block[i]);
}
RYOT_INLINE LeftPanel left_panel(Word* panel, long steps) {
  for (long k = 0; k < steps; k += kTileSide)
    for (long m = 0; m < kPanel; m += kTileSide) transpose_tile(panel + k * kPanel + m, kPanel);
  return {panel};
}
RYOT_INLINE LeftRows left_rows_in_place(const Operand* rows, long row_stride) {
  return {reinterpret_cast<const Word*>(rows), row_stride / kGroup};
}
template <typename Number>
RYOT_INLINE LeftRows left_rows(const Number* rows, long row_stride, long count, long width, Word* copy) {
  if (width % kGroup == 0 && row_stride % kGroup == 0) return left_rows_in_place(rows, row_stride);
  copy_rows(rows, row_stride, count, width, copy);
  return {copy, words(width)};
}

// Packs the left operand A[m, k] = a[k * row_stride + m], m < M, the transpose of K rows of scalars, into tiles
// [ceil(M / kLeftBlock)][..][2][kTileSide][kTileSide] with room for `room` words per column, a multiple of kLeftSteps.
template <typename Number>
static void pack_left(const Number* a, long row_stride, long K, long M, Word* packed, long room) {
  for (long m0 = 0; m0 < round_up(M, kLeftBlock); m0 += kTileSide)
    for (long step = 0; step < words(K); step += kTileSide) {
      Word* const tile = packed + (m0 / kLeftBlock * room + step) * kLeftBlock + m0 % kLeftBlock * kTileSide;
      const bool whole = m0 + kTileSide <= M;
      for (long s = 0; s < kTileSide; ++s) {
        const long k = (step + s) * kGroup;
        const Number* const p = a + k * row_stride + m0;
        Word* const out = tile + s * kTileSide;
        if (whole && k + kGroup <= K) {
          pack_vector(p, row_stride, out);
        } else {
          for (long m = 0; m < kTileSide; ++m) out[m] = m0 + m < M && k < K ? make_word(p + m, row_stride, K - k) : 0;
        }
      }
      transpose_tile(tile, kTileSide);
    }
}

// The shapes between calls: whole tiles.
constexpr TileShapes kWholeTiles = tile_shapes(kTileSide, kTileSide, kTileSide);

// Hooks of a target with this micro-kernel.
static void enter_tiles() { tiles_configure(kWholeTiles); }
static void leave_tiles() { tiles_release(); }

struct NoPrefetch {
  void operator()(long, long) const {}
};

// Adds the products of `count` tiles along the sum to tiles 0 to 3, or 0 and 1 if there is no lower half; between(t) is
// called after the t-th.
template <bool kLower, typename Left, typename Between>
RYOT_INLINE void add_tiles(const Word* a, const Left& left, const Word* panel, long count, const Between& between) {
  for (long t = 0; t < count; ++t, a += left.step, panel += kTileSide * kPanel) {
    tile_load<4>(a, left.row);
    tile_load<6>(panel, kPanel);
    tile_load<7>(panel + kTileSide, kPanel);
    tile_multiply_add<0, 4, 6>();
    tile_multiply_add<1, 4, 7>();
    if constexpr (kLower) {
      tile_load<5>(a + left.half(), left.row);
      tile_multiply_add<2, 5, 6>();
      tile_multiply_add<3, 5, 7>();
    }
    between(t);
  }
}
template <bool kLower>
RYOT_INLINE void zero_sums() {
  tile_zero<0>(), tile_zero<1>();
  if constexpr (kLower) tile_zero<2>(), tile_zero<3>();
}
template <bool kLower>
RYOT_INLINE void load_sums(const float* buffer) {
  tile_load<0>(buffer, kPanel), tile_load<1>(buffer + kTileSide, kPanel);
  if constexpr (kLower) {
    tile_load<2>(buffer + kTileSide * kPanel, kPanel), tile_load<3>(buffer + kTileSide * kPanel + kTileSide, kPanel);
  }
}
template <bool kLower>
RYOT_INLINE void store_sums(float* buffer) {
  tile_store<0>(buffer, kPanel), tile_store<1>(buffer + kTileSide, kPanel);
  if constexpr (kLower) {
    tile_store<2>(buffer + kTileSide * kPanel, kPanel), tile_store<3>(buffer + kTileSide * kPanel + kTileSide, kPanel);
  }
}

// Computes buffer[rows][kPanel] where there are fewer than kBlockRows rows, or words beyond whole tiles along the sum: by
// smaller tiles, whose shapes are set for this block and reset after it.
template <bool kLower, typename Left>
RYOT_NOINLINE void multiply_edge(long rows, const Word* a, const Left left, const Word* panel, long steps,
                                 float* buffer) {
  const long upper = smaller(rows, kTileSide), lower = rows - upper, whole = steps / kTileSide;
  const auto nothing = [](long) {};
  tiles_configure(tile_shapes(upper, lower, kTileSide));
  zero_sums<kLower>();
  add_tiles<kLower>(a, left, panel, whole, nothing);
  store_sums<kLower>(buffer);
  if (steps % kTileSide) {
    tiles_configure(tile_shapes(upper, lower, steps % kTileSide));
    load_sums<kLower>(buffer);
    add_tiles<kLower>(a + whole * left.step, left, panel + whole * kTileSide * kPanel, 1, nothing);
    store_sums<kLower>(buffer);
  }
  tiles_configure(kWholeTiles);
}

// Computes buffer[rows][kPanel], rows <= kBlockRows; between(t) is called for each tile along the sum if all are whole.
template <typename Left, typename Between>
RYOT_INLINE void multiply_block(long rows, const Word* a, const Left& left, const Word* panel, long steps, float* buffer,
                                const Between& between) {
  if (rows == kBlockRows && steps % kTileSide == 0) {
    zero_sums<true>();
    add_tiles<true>(a, left, panel, steps / kTileSide, between);
    store_sums<true>(buffer);
  } else if (rows > kTileSide) {
    multiply_edge<true>(rows, a, left, panel, steps, buffer);
  } else {
    multiply_edge<false>(rows, a, left, panel, steps, buffer);
  }
}

// See core/broadcast_kernel.h; kRows does not matter here.
template <long kRows = kBlockRows, typename Left, typename Epilogue, typename Prefetch = NoPrefetch>
RYOT_INLINE void multiply(long M, long N, long steps, const Left left, Right right, const Epilogue epilogue,
                          const Prefetch prefetch = {}) {
  alignas(64) float buffers[2][kBlockRows * kPanel];
  struct Block {  // whose rows from `next` on wait for the epilogue
    const float* sums;
    long m, n, next, rows;
  } waiting = {};
  const auto finish_rows = [&](long count) {
    const long end = smaller(waiting.rows, waiting.next + count), columns = N - waiting.n;
    for (long i = waiting.next; i < end; ++i) {
      const float* const sums = waiting.sums + i * kPanel;
      if (columns >= kPanel) {
#pragma GCC unroll 2
        for (long v = 0; v < kPanelVectors; ++v)
          epilogue(waiting.m + i, waiting.n + v * kLanes, load(sums + v * kLanes), kLanes);
      } else {
        for (long n = 0; n < columns; n += kLanes)
          epilogue(waiting.m + i, waiting.n + n, load(sums + n), smaller(kLanes, columns - n));
      }
    }
    waiting.next = end;
  };
  const long rows_at_once = divide_up(kBlockRows, larger(1, steps / kTileSide));
  long turn = 0;
  const Word* panel = right.data;
  for (long n0 = 0; n0 < N; n0 += kPanel, panel += right.room * kPanel)
    for (long m = 0; m < M; m += kBlockRows, turn ^= 1) {
      const long rows = smaller(kBlockRows, M - m);
      if (n0 + kPanel <= N)
        for (long i = 0; i < rows; ++i) prefetch(m + i, n0);
      multiply_block(rows, left.data + m / kTileSide * left.half(), left, panel, steps, buffers[turn],
                     [&](long) { finish_rows(rows_at_once); });
      finish_rows(kBlockRows);
      waiting = {buffers[turn], m, n0, 0, rows};
    }
  finish_rows(kBlockRows);
}

RYOT_INLINE void multiply_stored(const LeftRows& left, long first, long rows, Right panel, long steps, float* tile) {
  multiply_block(rows, left.data + first * left.row, left, panel.data, steps, tile, [](long) {});
}

// See core/broadcast_few_rows.h.
template <typename Epilogue>
RYOT_INLINE void multiply_row_by_row(long rows, long N, long steps, const Word* a, const Word* panels,
                                     const Epilogue epilogue) {
  multiply(rows, N, steps, LeftRows{a, steps}, Right{panels, steps}, epilogue);
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_TILE_KERNEL_H_
