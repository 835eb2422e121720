// The gradient of an embedding table: rows of dy scattered and added.
//
// Tasks own rectangles of the table, a range of the vocabulary by a few vectors of the width, and each visits all
// tokens in order: no two threads add to the same number, and the order of the sums is fixed.
#ifndef RYOT_KERNELS_CPU_OPS_EMBEDDING_H_
#define RYOT_KERNELS_CPU_OPS_EMBEDDING_H_

#include "../core/loops.h"
#include "../core/rows.h"

namespace ryot {
namespace {

static Status embedding_backward(const Parallel& parallel, const EmbeddingArgs& args) {
  constexpr long kColumns = 4 * kLanes;
  const long D = args.width, V = args.vocabulary;
  const long column_blocks = divide_up(D, kColumns);
  const long ranges = smaller(V, divide_up(2 * parallel.num_workers(), larger(column_blocks, 1)));
  const auto rectangles = tasks(column_blocks * ranges, [&](long task, long, long) {
    const long d0 = task / ranges * kColumns, d1 = smaller(D, d0 + kColumns), range = task % ranges;
    const long first = V * range / ranges, last = V * (range + 1) / ranges;
    for (long v = first; v < last; ++v)
      for (long d = d0; d < d1; d += kLanes) store_some(args.dtable + v * D + d, d1 - d, Vector{});
    for (long n = 0; n < args.rows; ++n) {
      const long v = args.tokens[n];
      if (v < first || v >= last) continue;
      for (long d = d0; d < d1; d += kLanes) {
        float* sum = args.dtable + v * D + d;
        store_some(sum, d1 - d, load_some(sum, d1 - d) + load_some(args.dy, n * D + d, d1 - d));
      }
    }
  });
  run(parallel, rectangles);
  return Status::kDone;
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_OPS_EMBEDDING_H_
