// Shared parts of both passes of attention with an online softmax, one sequence and key head per task (Dao et al. 2022,
// "FlashAttention", arXiv:2205.14135).
//
// Scores are computed transposed: the queries of a panel lie side by side in the lanes of kPanelVectors vectors, and
// each key is a row. Everything that belongs to a query (its maximum, its sum) is then a lane, and no sum runs across a
// vector; and two neighbouring rows of probabilities, rounded and interleaved, are words of an operand that is summed
// over the keys. Panels skip the keys that none of their queries sees. The forward pass keeps log(sum(exp)) per query;
// the backward pass recomputes the probabilities from it.
#ifndef RYOT_KERNELS_CPU_OPS_ATTENTION_PARTS_H_
#define RYOT_KERNELS_CPU_OPS_ATTENTION_PARTS_H_

#include "../core/functions.h"
#include "../core/loops.h"
#include "../core/micro_kernel.h"
#include "../core/scratch.h"

namespace ryot {
namespace {

// Keys of a block: its scores take at most half of 32 KiB, the smallest first-level cache among the targets'
// processors.
constexpr long kKeys = 128;
static_assert(kKeys % kStoredRows == 0 && kStoredRows % kGroup == 0 && kPanel % kGroup == 0, "blocks hold whole tiles");

// Keys [first, last), each seen by one of the queries [q0, q1), except those that fill up the first tile.
struct Range {
  long first, last;
};
RYOT_INLINE Range visible_keys(const AttentionArgs& args, long q0, long q1) {
  if (!args.causal) return {0, args.keys};
  return {args.window > 0 ? larger(0, q0 - args.window + 1) / kStoredRows * kStoredRows : 0, smaller(args.keys, q1)};
}

RYOT_INLINE Scalar* head_at(const AttentionArgs& args, const Heads& heads, long batch, long positions, long head) {
  return static_cast<Scalar*>(heads.data) + batch * positions * heads.row + head * args.head_width;
}

// Prefetches rows [first, last) of a head, which are far apart in memory.
template <bool kWrite>
RYOT_INLINE void prefetch_rows(const Scalar* head, long row, long first, long last, long width) {
  for (long i = first; i < last; ++i)
    for (long k = 0; k < width; k += 64 / static_cast<long>(sizeof(Scalar)))
      __builtin_prefetch(head + i * row + k, kWrite, 2);
}

// Sets scores[rows][kPanel] of keys from key0 on and queries from q0 on to -inf where the query does not see the key;
// with a padding mask, adds to `sees` the queries that see one of them.
RYOT_INLINE void mask_scores(const AttentionArgs& args, long batch, long q0, long key0, long rows, float* scores,
                             IntVector (&sees)[kPanelVectors]) {
  const bool all_seen = !args.causal || (key0 + rows <= q0 + 1 &&
                                         (args.window == 0 || q0 + kPanel - key0 <= args.window));
  if (all_seen && !args.mask) return;
  IntVector lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = i;
  for (long i = 0; i < rows; ++i) {
    const bool padding = args.mask && !args.mask[batch * args.keys + key0 + i];
    for (long v = 0; v < kPanelVectors; ++v) {
      const IntVector behind = lanes + static_cast<int>(q0 + v * kLanes - key0 - i);
      IntVector seen = IntVector{} - static_cast<int>(!padding);  // a true lane is -1
      if (!all_seen) seen &= behind >= 0;
      if (!all_seen && args.window > 0) seen &= behind < static_cast<int>(smaller(args.window, 1L << 30));
      float* row = scores + i * kPanel + v * kLanes;
      store(row, seen ? load(row) : splat(-__builtin_inff()));
      sees[v] |= seen;
    }
  }
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_OPS_ATTENTION_PARTS_H_
