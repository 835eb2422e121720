// One step of AdamW over all parameters, with clipping by the global norm of the gradients.
//
// Leaves are divided into chunks of kAdamWChunk elements, each a task: one loop sums the squares of the gradients,
// chunk by chunk and then over the chunks in order; a second one reads and writes every array once.
#ifndef RYOT_KERNELS_CPU_OPS_ADAMW_H_
#define RYOT_KERNELS_CPU_OPS_ADAMW_H_

#include "../core/functions.h"
#include "../core/loops.h"
#include "../core/scratch.h"

namespace ryot {
namespace {

constexpr long kAdamWChunk = 1 << 14;

// The part of a leaf that a chunk covers.
struct AdamWChunk {
  const AdamWLeaf* leaf;
  long start, size;
};

static Status adamw(const Parallel& parallel, const AdamWArgs& args) {
  long num_chunks = 0;
  for (long i = 0; i < args.num_leaves; ++i) num_chunks += divide_up(args.leaves[i].size, kAdamWChunk);
  const Scratch<AdamWChunk> chunks(num_chunks);
  const Scratch<double> squares(num_chunks);
  if (!chunks.get() || !squares.get()) return Status::kNoMemory;
  AdamWChunk* chunk = chunks.get();
  for (long i = 0; i < args.num_leaves; ++i)
    for (long start = 0; start < args.leaves[i].size; start += kAdamWChunk, ++chunk)
      *chunk = {args.leaves + i, start, smaller(kAdamWChunk, args.leaves[i].size - start)};

  const auto squaring = tasks(num_chunks, [&](long task, long, long) {
    const AdamWChunk c = chunks.get()[task];
    const float* const g = c.leaf->gradient + c.start;
    Vector even = Vector{}, odd = Vector{};
    long i = 0;
    for (; i + 2 * kLanes <= c.size; i += 2 * kLanes) {
      even += load(g + i) * load(g + i);
      odd += load(g + i + kLanes) * load(g + i + kLanes);
    }
    each_vector(c.size - i, [&](long j, long valid) RYOT_ALWAYS_INLINE {
      const Vector last = load_some(g + i + j, valid);
      even += last * last;
    });
    squares.get()[task] = horizontal_sum(even + odd);
  });
  float factor = 0;
  const auto norming = tasks(1, [&](long, long, long) {
    double sum = 0;
    for (long i = 0; i < num_chunks; ++i) sum += squares.get()[i];
    const float norm = args.gradient_scale * static_cast<float>(__builtin_sqrt(sum));
    *args.norm = norm;
    // Like optax: a NaN norm is not below the limit.
    const bool clipped = args.clip_norm > 0 && !(norm < args.clip_norm);
    factor = clipped ? args.gradient_scale / norm * args.clip_norm : args.gradient_scale;
  });
  const auto updating = tasks(num_chunks, [&](long task, long, long) {
    const AdamWChunk c = chunks.get()[task];
    const AdamWLeaf leaf = *c.leaf;
    const float scale = factor, b1 = args.b1, b2 = args.b2, epsilon = args.epsilon, rate = args.rate;
    const float first_correction = args.first_correction, second_correction = args.second_correction;
    each_vector(c.size, [=](long i, long valid) RYOT_ALWAYS_INLINE {
      const long at = c.start + i;
      const Vector g = load_some(leaf.gradient + at, valid) * scale;
      const Vector m = b1 * load_some(leaf.first_moment + at, valid) + (1.0f - b1) * g;
      const Vector v = b2 * load_some(leaf.second_moment + at, valid) + (1.0f - b2) * (g * g);
      const Vector p = load_some(leaf.parameter + at, valid);
      const Vector update = m * first_correction / (square_root(v * second_correction) + epsilon) + leaf.decay * p;
      store_some(leaf.new_first_moment + at, valid, m);
      store_some(leaf.new_second_moment + at, valid, v);
      store_some(leaf.new_parameter + at, valid, p - rate * update);
    });
  });
  run(parallel, squaring, norming, updating);
  return Status::kDone;
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_OPS_ADAMW_H_
