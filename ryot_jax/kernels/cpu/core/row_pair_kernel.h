// The micro-kernel for instructions that multiply two rows by two columns of four bfloat16 each (BFMMLA): that of
// core/broadcast_kernel.h with another tile of products, from operands in the same layout.
//
// A step of such an instruction is two words along the sum. The columns of a panel's two rows are interleaved in
// registers, once for all rows of the tile; the words of two rows of the left operand are loaded together. Results are
// held as 2 x 2 blocks and become rows at the end.
#ifndef RYOT_KERNELS_CPU_CORE_ROW_PAIR_KERNEL_H_
#define RYOT_KERNELS_CPU_CORE_ROW_PAIR_KERNEL_H_

#define RYOT_OWN_MULTIPLY_TILE

#include "panels.h"

namespace ryot {
namespace {

static_assert(kLanes == 4 && kGroup == 2, "a vector holds two pairs of words");

// The words k and k + 1 (or k alone, then zeros) of two rows at a and b.
template <bool kWhole>
RYOT_INLINE uint32x4_t two_rows(const Word* a, const Word* b, long step) {
  if constexpr (!kWhole) return uint32x4_t{a[0], 0, b[0], 0};
  if (step == 1) return vcombine_u32(vld1_u32(a), vld1_u32(b));
  return uint32x4_t{a[0], a[step], b[0], b[step]};
}

template <bool kWhole, long kRows>
RYOT_INLINE void add_two_steps(const Word* a, long a_row, long a_step, const Word* panel,
                               float32x4_t (&blocks)[(kRows + 1) / 2][2 * kPanelVectors]) {
  uint32x4_t columns[2 * kPanelVectors];
#pragma GCC unroll 8
  for (long v = 0; v < kPanelVectors; ++v) {
    const uint32x4_t here = vld1q_u32(panel + v * kLanes);
    const uint32x4_t next = kWhole ? vld1q_u32(panel + kPanel + v * kLanes) : vdupq_n_u32(0);
    columns[2 * v] = vzip1q_u32(here, next), columns[2 * v + 1] = vzip2q_u32(here, next);
  }
#pragma GCC unroll 16
  for (long i = 0; i < kRows; i += 2) {
    const Word* const upper = a + i * a_row;
    const uint32x4_t rows = two_rows<kWhole>(upper, i + 1 < kRows ? upper + a_row : upper, a_step);
#pragma GCC unroll 16
    for (long c = 0; c < 2 * kPanelVectors; ++c)
      blocks[i / 2][c] =
          vbfmmlaq_f32(blocks[i / 2][c], vreinterpretq_bf16_u32(rows), vreinterpretq_bf16_u32(columns[c]));
  }
}

template <long kRows>
RYOT_INLINE void multiply_tile(const Word* a, long a_row, long a_step, const Word* panel, long steps,
                               Vector (&sum)[kRows][kPanelVectors]) {
  float32x4_t blocks[(kRows + 1) / 2][2 * kPanelVectors];
#pragma GCC unroll 16
  for (long i = 0; i < (kRows + 1) / 2; ++i)
    for (long c = 0; c < 2 * kPanelVectors; ++c) blocks[i][c] = vdupq_n_f32(0);
  long k = 0;
  for (; k + 2 <= steps; k += 2, a += 2 * a_step, panel += 2 * kPanel)
    add_two_steps<true, kRows>(a, a_row, a_step, panel, blocks);
  if (k < steps) add_two_steps<false, kRows>(a, a_row, a_step, panel, blocks);
#pragma GCC unroll 16
  for (long i = 0; i < kRows; ++i)
    for (long v = 0; v < kPanelVectors; ++v) {
      const float32x4_t left = blocks[i / 2][2 * v], right = blocks[i / 2][2 * v + 1];
      sum[i][v] = reinterpret_cast<Vector>(i % 2 ? vcombine_f32(vget_high_f32(left), vget_high_f32(right))
                                                 : vcombine_f32(vget_low_f32(left), vget_low_f32(right)));
    }
}

}  // namespace
}  // namespace ryot

#include "broadcast_kernel.h"

namespace ryot {
namespace {

// See core/broadcast_few_rows.h: tiles of any number of rows sum in the same order.
template <typename Epilogue>
RYOT_INLINE void multiply_row_by_row(long rows, long N, long steps, const Word* a, const Word* panels,
                                     const Epilogue epilogue) {
  multiply(rows, N, steps, LeftRows{a, steps}, Right{panels, steps}, epilogue);
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_ROW_PAIR_KERNEL_H_
