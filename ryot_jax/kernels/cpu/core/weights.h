// Parallel loops that pack weights as operands of products, and that compute their gradient.
#ifndef RYOT_KERNELS_CPU_CORE_WEIGHTS_H_
#define RYOT_KERNELS_CPU_CORE_WEIGHTS_H_

#include "cache_sizes.h"
#include "loops.h"
#include "micro_kernel.h"

namespace ryot {
namespace {

// Packs w[K, N], row-major float32, or the transpose of w[N, K], as a right operand.
static auto packing_weights(const float* w, bool transposed, long K, long N, Word* packed) {
  constexpr long kWordsOfTask = 1 << 12;
  const long room = words(K), panels = divide_up(N, kPanel);
  const long panels_of_task = divide_up(kWordsOfTask, larger(room * kPanel, 1));
  return tasks(divide_up(panels, panels_of_task), [=](long task, long, long) {
    const long n0 = task * panels_of_task * kPanel, columns = smaller(panels_of_task * kPanel, N - n0);
    Word* out = packed + n0 * words(K);
    if (transposed) pack_right_transposed(w + n0 * K, K, K, columns, out, room);
    else pack_right(w + n0, N, K, columns, out, room);
  });
}

// The gradient of weights: C[M,N] (+)= A^T B over K rows of both, from blocks of `pack_left` and panels of `pack_right`
// with room for `room` steps, of which the first `steps` are summed. Tasks own parts of C and process the rows in
// order, so no two threads add to the same sum.
static auto weight_gradient(long workers, long M, long N, long room, long steps, const Word* left, const Word* right,
                            float* c, bool accumulate) {
  // A panel's share of these steps stays in the first-level cache, all panels' in the second.
  const long steps_at_once = round_up(block_sizes().product_steps, kLeftSteps);
  // Large tasks read the operands less often, small ones balance better.
  const long blocks = divide_up(M, kLeftBlock), panels = divide_up(N, kPanel);
  const auto count = [=](long blocks_of_task, long panels_of_task) {
    return divide_up(blocks, blocks_of_task) * divide_up(panels, panels_of_task);
  };
  const long panels_of_task = count(1, 4) >= 8 * workers ? 4 : 2;
  const long blocks_of_task = count(2, panels_of_task) >= 8 * workers ? 2 : 1;
  const long column_tasks = divide_up(panels, panels_of_task);
  return tasks(count(blocks_of_task, panels_of_task), [=](long task, long, long) {
    const long n0 = task % column_tasks * panels_of_task * kPanel, columns = smaller(panels_of_task * kPanel, N - n0);
    const long first = task / column_tasks * blocks_of_task, last = smaller(blocks, first + blocks_of_task);
    for (long k0 = 0; k0 < larger(steps, 1); k0 += steps_at_once) {
      const bool add = accumulate || k0 > 0;
      for (long block = first; block < last; ++block) {
        const long m0 = block * kLeftBlock;
        float* out = c + m0 * N + n0;
        multiply(smaller(kLeftBlock, M - m0), columns, smaller(steps_at_once, steps - k0),
                 left_block(left, room, block, k0), Right{right, room}.from_panel(n0 / kPanel).from_step(k0),
                 [=](long m, long n, Vector sum, long valid) RYOT_ALWAYS_INLINE {
                   float* p = out + m * N + n;
                   store_some(p, valid, add ? load_some(p, valid) + sum : sum);
                 });
      }
    }
  });
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_WEIGHTS_H_
