// The micro-kernel for vector instructions: each word of the left operand is broadcast and multiplied by the vectors of
// a panel of the right one; C[M, N] = A[M, K] B[K, N] on one thread.
//
// A micro-kernel owns the layout of both operands: the ops use only
// * kTileRows, kPanel, kLeftBlock, kLeftSteps, kStoredRows: the rows of a tile, the columns of a panel, the columns of a
//   block of a transposed left operand and the steps along the sum of which it is made, and the rows of a tile that
//   `multiply_stored` stores;
// * left operands made by left_rows, left_rows_in_place, pack_left with left_block and left_step, and left_panel; right
//   ones by pack_right, pack_right_transposed, Right and right_step; left_words and packed_words, their sizes;
// * multiply, multiply_stored, and multiply_row_by_row, whose results for a row do not depend on the number of rows.
//
// This one reads left operands in place through two strides, or in the blocks made by `pack_left`. The inner loop keeps
// a tile of kTileRows x kPanel results in registers: 24 of the 32 vectors of AVX-512 and of NEON, 12 of the 16 of AVX2. Each vector
// of a finished tile is passed to an epilogue, which adds a bias, rounds, stores.
#ifndef RYOT_KERNELS_CPU_CORE_BROADCAST_KERNEL_H_
#define RYOT_KERNELS_CPU_CORE_BROADCAST_KERNEL_H_

#include "panels.h"

namespace ryot {
namespace {

constexpr long kTileRows = Traits::kTileRows;
constexpr long kLeftBlock = 48;  // whole tiles, whole vectors
constexpr long kLeftSteps = 1;
constexpr long kStoredRows = kPanel / 4;
static_assert(kLeftBlock % kTileRows == 0 && kLeftBlock % kLanes == 0, "blocks hold whole tiles and vectors");

RYOT_INLINE constexpr long left_words(long K, long M) { return round_up(M, kLeftBlock) * words(K); }

// Left operands: word (m, k) is at data[m * row + k * step].
struct LeftRows {  // rows of scalars, in place
  const Word* data;
  long row;
  static constexpr long step = 1;
};
template <long kStep>
struct LeftColumns {  // transposed: the words of a step are neighbours
  const Word* data;
  static constexpr long row = 1, step = kStep;
};
using LeftBlock = LeftColumns<kLeftBlock>;  // made by `pack_left`
using LeftPanel = LeftColumns<kPanel>;      // [steps][kPanel] words, stored by `store_words`

// Block `block`, from step `step` on, of an operand packed by `pack_left` with that room.
RYOT_INLINE LeftBlock left_block(const Word* packed, long room, long block, long step) {
  return {packed + (block * room + step) * kLeftBlock};
}
// The address to which packing writes all blocks from a step on.
RYOT_INLINE Word* left_step(Word* packed, long step) { return packed + step * kLeftBlock; }
// A panel of words as a left operand; a kernel that needs another layout changes them in place.
RYOT_INLINE LeftPanel left_panel(Word* panel, long steps) {
  (void)steps;
  return {panel};
}
RYOT_INLINE LeftRows left_rows_in_place(const Operand* rows, long row_stride) {
  return {reinterpret_cast<const Word*>(rows), row_stride / kGroup};
}
// `count` rows of `width` scalars, row_stride apart, as a left operand: in place if they are operands in whole words, else
// copied and padded with zeros.
template <typename Number>
RYOT_INLINE LeftRows left_rows(const Number* rows, long row_stride, long count, long width, Word* copy) {
  if constexpr (kScalarIsOperand) {
    if (width % kGroup == 0 && row_stride % kGroup == 0) return left_rows_in_place(rows, row_stride);
  }
  copy_rows(rows, row_stride, count, width, copy);
  return {copy, words(width)};
}

// Packs the left operand A[m, k] = a[k * row_stride + m], m < M, the transpose of K rows of scalars, into blocks
// [ceil(M / kLeftBlock)][..][kLeftBlock] with room for `room` words per column.
template <typename Number>
static void pack_left(const Number* a, long row_stride, long K, long M, Word* packed, long room) {
  for (long m0 = 0; m0 < M; m0 += kLeftBlock, packed += room * kLeftBlock) {
    const long columns = smaller(kLeftBlock, M - m0);
    for (long k = 0; k < K; k += kGroup) {
      Word* out = packed + k / kGroup * kLeftBlock;
      const Number* p = a + k * row_stride + m0;
      long m = 0;
      if (k + kGroup <= K)
        for (; m + kLanes <= columns; m += kLanes) pack_vector(p + m, row_stride, out + m);
      for (; m < kLeftBlock; ++m) out[m] = m < columns ? make_word(p + m, row_stride, K - k) : 0;
    }
  }
}

#ifndef RYOT_OWN_MULTIPLY_TILE  // by core/row_pair_kernel.h
template <long kRows>
RYOT_INLINE void multiply_tile(const Word* a, long a_row, long a_step, const Word* panel, long steps,
                               Vector (&sum)[kRows][kPanelVectors]) {
  // Three rows share a pointer, so that the inner loop's addresses fit into the registers: with one pointer for all,
  // compilers keep a multiple of a_row for each row, and load it from memory in every step.
  constexpr long kShared = 3, kPointers = (kRows + kShared - 1) / kShared;
  const Word* rows[kPointers];
#pragma GCC unroll 16
  for (long i = 0; i < kPointers; ++i) {
    rows[i] = a + kShared * i * a_row;
    asm("" : "+r"(rows[i]));  // hides the relation from the compiler
  }
#pragma GCC unroll 16
  for (long i = 0; i < kRows; ++i)
    for (long v = 0; v < kPanelVectors; ++v) sum[i][v] = Vector{};
  for (long k = 0; k < steps; ++k, panel += kPanel) {
    Vector b[kPanelVectors];
    for (long v = 0; v < kPanelVectors; ++v) b[v] = load(reinterpret_cast<const float*>(panel) + v * kLanes);
#pragma GCC unroll 16
    for (long i = 0; i < kRows; ++i)
      for (long v = 0; v < kPanelVectors; ++v)
        sum[i][v] = multiply_add(sum[i][v], rows[i / kShared] + i % kShared * a_row, b[v]);
#pragma GCC unroll 16
    for (long i = 0; i < kPointers; ++i) rows[i] += a_step;
  }
}
#endif

// A tile of any number of rows, through a buffer: for the edges of a matrix.
template <long kRows>
RYOT_NOINLINE void multiply_edge(long rows, const Word* a, long a_row, long a_step, const Word* panel, long steps,
                                 float* buffer) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return multiply_edge<kRows - 1>(rows, a, a_row, a_step, panel, steps, buffer);
  }
  Vector sum[kRows][kPanelVectors];
  multiply_tile<kRows>(a, a_row, a_step, panel, steps, sum);
  for (long i = 0; i < kRows; ++i)
    for (long v = 0; v < kPanelVectors; ++v) store(buffer + i * kPanel + v * kLanes, sum[i][v]);
}

struct NoPrefetch {
  void operator()(long, long) const {}
};

// C[m, n] = sum over k < steps of the products of the left operand's words (m, k) and the right's (k, n);
// epilogue(m, n, vector, valid) gets kLanes results from column n on, of which `valid` exist: a constant kLanes for
// whole tiles. An epilogue should own what it uses (capture by value), as its stores could alias what others own.
// prefetch(m, n) is called for each row of a whole tile before its product is computed.
template <long kRows = kTileRows, typename Left, typename Epilogue, typename Prefetch = NoPrefetch>
RYOT_INLINE void multiply(long M, long N, long steps, const Left left, Right right, const Epilogue epilogue,
                          const Prefetch prefetch = {}) {
  const Word* const a = left.data;
  const Word* panels = right.data;
  for (long n0 = 0; n0 < N; n0 += kPanel, panels += right.room * kPanel) {
    long m = 0;
    if (n0 + kPanel <= N)
      for (; m + kRows <= M; m += kRows) {
        for (long i = 0; i < kRows; ++i) prefetch(m + i, n0);
        Vector sum[kRows][kPanelVectors];
        multiply_tile<kRows>(a + m * left.row, left.row, left.step, panels, steps, sum);
#pragma GCC unroll 16
        for (long i = 0; i < kRows; ++i)
#pragma GCC unroll 2
          for (long v = 0; v < kPanelVectors; ++v) epilogue(m + i, n0 + v * kLanes, sum[i][v], kLanes);
      }
    for (; m < M; m += kRows) {
      float buffer[kRows * kPanel];
      const long rows = smaller(kRows, M - m);
      multiply_edge<kRows>(rows, a + m * left.row, left.row, left.step, panels, steps, buffer);
      for (long i = 0; i < rows; ++i)
        for (long n = 0; n < smaller(kPanel, N - n0); n += kLanes)
          epilogue(m + i, n0 + n, load(buffer + i * kPanel + n), smaller(kLanes, N - n0 - n));
    }
  }
}

// Computes tile[rows][kPanel], the products of at most kStoredRows rows from `first` on and the first panel's columns.
RYOT_INLINE void multiply_stored(const LeftRows& left, long first, long rows, Right panel, long steps, float* tile) {
  const Word* a = left.data + first * left.row;
  if (rows < kStoredRows) return multiply_edge<kStoredRows>(rows, a, left.row, 1, panel.data, steps, tile);
  Vector sum[kStoredRows][kPanelVectors];
  multiply_tile<kStoredRows>(a, left.row, 1, panel.data, steps, sum);
  for (long i = 0; i < kStoredRows; ++i)
    for (long v = 0; v < kPanelVectors; ++v) store(tile + i * kPanel + v * kLanes, sum[i][v]);
}

}  // namespace
}  // namespace ryot

#ifndef RYOT_OWN_MULTIPLY_TILE
#include "broadcast_few_rows.h"
#endif

#endif  // RYOT_KERNELS_CPU_CORE_BROADCAST_KERNEL_H_
