// The broadcasting micro-kernel for few rows, as in decoding: several panels fill the registers.
#ifndef RYOT_KERNELS_CPU_CORE_BROADCAST_FEW_ROWS_H_
#define RYOT_KERNELS_CPU_CORE_BROADCAST_FEW_ROWS_H_

#include "broadcast_kernel.h"

namespace ryot {
namespace {

// Computes buffer[kPanels][kRows][kPanel]: kRows rows times kPanels panels, panel_stride words apart.
template <long kRows, long kPanels>
RYOT_NOINLINE void multiply_panels(const Word* a, long a_row, const Word* panels, long panel_stride,
                                                      long steps, float* buffer) {
  Vector sum[kPanels][kRows][kPanelVectors];
#pragma GCC unroll 4
  for (long p = 0; p < kPanels; ++p)
#pragma GCC unroll 16
    for (long i = 0; i < kRows; ++i)
      for (long v = 0; v < kPanelVectors; ++v) sum[p][i][v] = Vector{};
  for (long k = 0; k < steps; ++k, ++a, panels += kPanel) {
#pragma GCC unroll 4
    for (long p = 0; p < kPanels; ++p) {
      Vector b[kPanelVectors];
      for (long v = 0; v < kPanelVectors; ++v)
        b[v] = load(reinterpret_cast<const float*>(panels + p * panel_stride) + v * kLanes);
#pragma GCC unroll 16
      for (long i = 0; i < kRows; ++i)
        for (long v = 0; v < kPanelVectors; ++v) sum[p][i][v] = multiply_add(sum[p][i][v], a + i * a_row, b[v]);
    }
  }
#pragma GCC unroll 4
  for (long p = 0; p < kPanels; ++p)
#pragma GCC unroll 16
    for (long i = 0; i < kRows; ++i)
      for (long v = 0; v < kPanelVectors; ++v) store(buffer + (p * kRows + i) * kPanel + v * kLanes, sum[p][i][v]);
}

// The product of fewer rows than a tile: kRows rows by as many panels as fill the registers, so that there are enough
// sums to hide the latency of a multiply_add. `buffer` has room for a tile.
template <long kRows, typename Epilogue>
RYOT_INLINE void multiply_few(long rows, long N, long steps, const Word* a, long a_row, const Word* panels,
                              long panel_stride, float* buffer, const Epilogue& epilogue) {
  if constexpr (kRows > 1) {
    if (rows < kRows)
      return multiply_few<kRows - 1>(rows, N, steps, a, a_row, panels, panel_stride, buffer, epilogue);
  }
  constexpr long kPanels = kTileRows / kRows < 4 ? kTileRows / kRows : 4;
  for (long n0 = 0; n0 < N; n0 += kPanels * kPanel, panels += kPanels * panel_stride) {
    const long here = smaller(kPanels, divide_up(N - n0, kPanel));
    if (here == kPanels) multiply_panels<kRows, kPanels>(a, a_row, panels, panel_stride, steps, buffer);
    else
      for (long p = 0; p < here; ++p)
        multiply_panels<kRows, 1>(a, a_row, panels + p * panel_stride, 0, steps, buffer + p * kRows * kPanel);
    for (long p = 0; p < here; ++p)
      for (long i = 0; i < kRows; ++i)
        for (long n = 0; n < smaller(kPanel, N - n0 - p * kPanel); n += kLanes)
          epilogue(i, n0 + p * kPanel + n, load(buffer + (p * kRows + i) * kPanel + n),
                   smaller(kLanes, N - n0 - p * kPanel - n));
  }
}

// Computes C[m, n] for contiguous rows[M] of `steps` words, and passes each vector to epilogue(m, n, vector, valid):
// each row has the same chain of multiply_adds, whatever the number of rows.
template <typename Epilogue>
RYOT_INLINE void multiply_row_by_row(long rows, long N, long steps, const Word* a, const Word* panels,
                                     const Epilogue epilogue) {
  const long stride = steps * kPanel, whole = rows / kTileRows * kTileRows;
  multiply(whole, N, steps, LeftRows{a, steps}, Right{panels, steps}, epilogue);
  if (whole == rows) return;
  alignas(64) float buffer[kTileRows * kPanel];
  multiply_few<kTileRows - 1>(rows - whole, N, steps, a + whole * steps, steps, panels, stride, buffer,
                              [=](long m, long n, Vector sum, long valid) RYOT_ALWAYS_INLINE {
                                epilogue(whole + m, n, sum, valid);
                              });
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_BROADCAST_FEW_ROWS_H_
