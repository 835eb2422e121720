// The layout of right operands in panels, for micro-kernels to share.
//
// B[K, N] is packed into panels of kPanel columns, [ceil(N / kPanel)][room >= ceil(K / kGroup)][kPanel] words, padded
// with zeros, so that the inner loop of a product reads it front to back.
#ifndef RYOT_KERNELS_CPU_CORE_PANELS_H_
#define RYOT_KERNELS_CPU_CORE_PANELS_H_

#include "functions.h"
#include "lanes.h"
#include "scalar.h"
#include "vector.h"

namespace ryot {
namespace {

constexpr long kPanelVectors = Traits::kPanelVectors;
constexpr long kPanel = kPanelVectors * kLanes;
static_assert(kPanel % 16 == 0, "16 x 16 words are transposed into a panel at a time");

RYOT_INLINE constexpr long words(long scalars) { return divide_up(scalars, kGroup); }
RYOT_INLINE constexpr long packed_words(long K, long N) { return round_up(N, kPanel) * words(K); }

// A packed right operand whose panels have room for `room` words per column; `from_step` is the part from a step on.
struct Right {
  const Word* data;
  long room;
  Right from_step(long step) const { return {data + step * kPanel, room}; }
  Right from_panel(long panel) const { return {data + panel * room * kPanel, room}; }
};
// The address to which packing writes a right operand from a step on.
RYOT_INLINE Word* right_step(Word* packed, long step) { return packed + step * kPanel; }

template <typename Number>
RYOT_INLINE Word make_word(const Number* p, long stride, long n) {
  Word word = 0;
  for (long i = 0; i < kGroup && i < n; ++i) word |= scalar_bits(p[i * stride]) << (16 * i);
  return word;
}

// Copies `count` rows of `width` scalars, row_stride apart, as rows of words, padded with zeros.
template <typename Number>
RYOT_INLINE void copy_rows(const Number* rows, long row_stride, long count, long width, Word* copy) {
  for (long i = 0; i < count; ++i, rows += row_stride, copy += words(width)) {
    if constexpr (kGroup == 1) {
      each_vector(width, [=](long k, long valid) RYOT_ALWAYS_INLINE {
        store_some(reinterpret_cast<float*>(copy) + k, valid, load_some(rows + k, valid));
      });
    } else {
      for (long k = 0; k < words(width); ++k) copy[k] = make_word(rows + k * kGroup, 1, width - k * kGroup);
    }
  }
}

// Packs B[k, n] = b[k * row_stride + n], k < K, n < N, into panels with room for `room` words per column.
template <typename Number>
static void pack_right(const Number* b, long row_stride, long K, long N, Word* packed, long room) {
  for (long n0 = 0; n0 < N; n0 += kPanel, packed += room * kPanel) {
    const long columns = smaller(kPanel, N - n0);
    for (long k = 0; k < K; k += kGroup) {
      Word* out = packed + k / kGroup * kPanel;
      const Number* p = b + k * row_stride + n0;
      if (columns == kPanel && k + kGroup <= K) {
        pack_rows(p, row_stride, out);
      } else {
        for (long n = 0; n < kPanel; ++n) out[n] = n < columns ? make_word(p + n, row_stride, K - k) : 0;
      }
    }
  }
}

// Packs B[k, n] = b[n * row_stride + k] likewise: the transpose of rows of scalars.
template <typename Number>
static void pack_right_transposed(const Number* b, long row_stride, long K, long N, Word* packed, long room) {
  constexpr long kBlock = 16;  // words by columns, transposed at a time
  for (long n0 = 0; n0 < round_up(N, kPanel); n0 += kBlock) {
    const long columns = larger(0, smaller(kBlock, N - n0));
    Word* out = packed + n0 / kPanel * (room * kPanel) + n0 % kPanel;
    for (long k0 = 0; k0 < words(K); k0 += kBlock, out += kBlock * kPanel) {
      alignas(64) Word block[kBlock][kBlock] = {};
      for (long n = 0; n < columns; ++n) {
        const Number* p = b + (n0 + n) * row_stride + k0 * kGroup;
        if ((k0 + kBlock) * kGroup <= K) {
          for (long i = 0; i < kBlock * kGroup; i += kLanes)
            store(reinterpret_cast<Operand*>(block[n]) + i, load(p + i));
        } else {
          for (long k = 0; k0 + k < words(K); ++k) block[n][k] = make_word(p + k * kGroup, 1, K - (k0 + k) * kGroup);
        }
      }
      transpose16x16(block);
      for (long k = 0; k < smaller(kBlock, words(K) - k0); ++k)
        __builtin_memcpy(out + k * kPanel, block[k], sizeof block[k]);
    }
  }
}

// Sums each of N packed columns over `steps` words.
RYOT_INLINE void sum_columns(Right packed, long steps, long N, float* sums) {
  Word ones = 0;
  for (long i = 0; i < kGroup; ++i) ones |= scalar_bits(1.0f) << (16 * i);
  for (long n0 = 0; n0 < N; n0 += kPanel, packed.data += packed.room * kPanel)
    for (long v = 0; v < kPanelVectors && n0 + v * kLanes < N; ++v) {
      Vector even = Vector{}, odd = Vector{};  // two independent chains, as one is limited by latency
      const float* p = reinterpret_cast<const float*>(packed.data) + v * kLanes;
      for (long k = 0; k < steps; ++k) {
        Vector& sum = k % 2 ? odd : even;
        sum = multiply_add(sum, &ones, load(p + k * kPanel));
      }
      store_some(sums + n0 + v * kLanes, N - n0 - v * kLanes, even + odd);
    }
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_PANELS_H_
