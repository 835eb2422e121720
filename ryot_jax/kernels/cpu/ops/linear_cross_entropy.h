// Linear + softmax cross-entropy with its gradients, without ever storing all logits.
//
// Rows are processed in chunks of kLogitsRows, one per task. A chunk's logits [kLogitsRows, V] stay in the second-level
// cache while they are turned into the softmax and then into their own gradient, and are multiplied by w to give dx;
// then they are packed, with the rows of x, and a second pass multiplies the two to give dw. A pass covers as many
// chunks as keep the packed gradients within kPassBytes. (Gradients in the forward pass: Hsu et al. 2024, "Liger
// Kernel".)
#ifndef RYOT_KERNELS_CPU_OPS_LINEAR_CROSS_ENTROPY_H_
#define RYOT_KERNELS_CPU_OPS_LINEAR_CROSS_ENTROPY_H_

#include "../core/functions.h"
#include "../core/scratch.h"
#include "../core/weights.h"

namespace ryot {
namespace {

constexpr long kLogitsRows = 4 * kTileRows;
constexpr long kPassBytes = 8 << 20;  // no share of the last-level cache, which other cores and machines use too
static_assert(kLogitsRows % (kGroup * kLeftSteps) == 0, "chunks hold whole words and steps");

// Caps a row of logits: l -> cap tanh(l / cap), as (1 - e) / (1 + e) with e = exp(-2 |l| / cap).
static void cap_row(float* logits, long n, float cap) {
  each_vector(n, [=](long v, long valid) RYOT_ALWAYS_INLINE {
    const Vector l = load_some(logits + v, valid);
    const Vector e = softmax_term(l < 0.0f ? l : -l, 2.0f / cap, Vector{});
    const Vector capped = cap * (1.0f - e) / (1.0f + e);  // a division: `reciprocal` has too few digits here
    store_some(logits + v, valid, l < 0.0f ? -capped : capped);
  });
}

// Turns a row of logits into the gradient of weight * loss, if requested, and returns the loss.
RYOT_INLINE float softmax_row(const LinearCrossEntropyArgs& args, float* logits, long target, float weight,
                              Operand* dlogits) {
  const long V = args.vocabulary;
  const float cap = args.soft_cap, smoothing = args.label_smoothing;
  if (cap > 0) cap_row(logits, V, cap);
  // A target beyond the vocabulary has no logit: the loss is NaN, as for an index out of range in jnp.
  const float target_logit = target < V ? logits[target] : __builtin_nanf("");
  const float mean_logit = smoothing > 0 ? sum_of(logits, V) / V : 0.0f;
  const float top = max_of(logits, V);
  Vector exps = Vector{};
  // With a cap the logits are needed again, for its derivative; their exponentials are then recomputed.
  float* const kept = cap > 0 ? nullptr : logits;
  each_vector(V, [&](long v, long valid) RYOT_ALWAYS_INLINE {
    const Vector e = softmax_term(load_some(logits + v, valid, -__builtin_inff()), 1.0f, splat(top));
    if (kept) store_some(kept + v, valid, e);
    exps += e;
  });
  const float sum = horizontal_sum(exps);
  const float lse = top + static_cast<float>(__builtin_log(static_cast<double>(sum)));
  const float loss =
      lse - (1.0f - smoothing) * target_logit - smoothing * mean_logit + args.z_loss * lse * lse;
  if (!dlogits) return loss;

  const float softmax_factor = weight * (1.0f + 2.0f * args.z_loss * lse) / sum;
  const float smoothing_term = weight * smoothing / V, target_term = weight * (1.0f - smoothing);
  const auto gradient = [=](Vector stored, float target_term) RYOT_ALWAYS_INLINE {
    if (cap > 0) {
      const Vector slope = 1.0f - stored * stored * (1.0f / (cap * cap));
      return (softmax_term(stored, 1.0f, splat(top)) * softmax_factor - smoothing_term - target_term) * slope;
    }
    return stored * softmax_factor - smoothing_term - target_term;
  };
  each_vector(V, [=](long v, long valid) RYOT_ALWAYS_INLINE {
    store_some(dlogits + v, valid, gradient(load_some(logits + v, valid), 0.0f));
  });
  if (target < V) store_partial(dlogits + target, 1, gradient(splat(logits[target]), target_term));
  return loss;
}

struct CrossEntropyScratch {
  CrossEntropyScratch(const LinearCrossEntropyArgs& args, long workers)
      : with_gradients(args.dx != nullptr),
        logits_row(scratch_row(args.vocabulary)),
        dlogits_row(scratch_row(args.vocabulary) * kGroup),
        pass_rows(rows_of_pass(args, workers)),
        steps(pass_rows / kGroup),
        across(packed_words(args.width, args.vocabulary)),
        along(with_gradients ? packed_words(args.vocabulary, args.width) : 1),
        copies(workers * kLogitsRows * words(args.width)),
        logits(workers * kLogitsRows * logits_row),
        dlogits(with_gradients ? workers * kLogitsRows * dlogits_row : 1),
        left(with_gradients ? left_words(pass_rows, args.vocabulary) : 1),
        right(with_gradients ? packed_words(pass_rows, args.width) : 1) {}
  bool complete() const {
    return across.get() && along.get() && copies.get() && logits.get() && dlogits.get() && left.get() && right.get();
  }
  static long rows_of_pass(const LinearCrossEntropyArgs& args, long workers) {
    const long row_bytes = round_up(args.vocabulary, kLeftBlock) * sizeof(Operand);
    const long pass_chunks = larger(2 * workers, kPassBytes / (kLogitsRows * row_bytes));
    return kLogitsRows * larger(1, smaller(pass_chunks, divide_up(args.rows, kLogitsRows)));
  }
  const bool with_gradients;
  const long logits_row, dlogits_row, pass_rows, steps;
  const Scratch<Word> across, along;  // w^T, for the logits, and w, for dx
  const Scratch<Word> copies;
  const Scratch<float> logits;
  const Scratch<Operand> dlogits;
  const Scratch<Word> left, right;  // the gradients of a pass's logits, and its rows of x
};

// Computes losses and dx of a chunk's rows, and packs them for dw from step0 of the pass on.
static void cross_entropy_chunk(const LinearCrossEntropyArgs& args, const CrossEntropyScratch& scratch, long row0,
                                long rows, long step0, long worker) {
  const long D = args.width, V = args.vocabulary, logits_row = scratch.logits_row, dlogits_row = scratch.dlogits_row;
  const bool with_gradients = scratch.with_gradients;
  const Scalar* x = static_cast<const Scalar*>(args.x) + row0 * D;
  float* logits = scratch.logits.get() + worker * kLogitsRows * logits_row;
  Operand* dlogits = scratch.dlogits.get() + worker * kLogitsRows * dlogits_row;
  const LeftRows x_words = left_rows(x, D, rows, D, scratch.copies.get() + worker * kLogitsRows * words(D));
  multiply(rows, V, words(D), x_words, Right{scratch.across.get(), words(D)},
           [=](long m, long n, Vector sum, long valid) RYOT_ALWAYS_INLINE {
             store_some(logits + m * logits_row + n, valid, sum);
           });
  for (long i = 0; i < rows; ++i) {
    const long target = args.target[row0 + i];
    Operand* dlogits_i = with_gradients ? dlogits + i * dlogits_row : nullptr;
    if (target < 0) {
      args.losses[row0 + i] = 0.0f;
      for (long v = 0; with_gradients && v < V; ++v) dlogits_i[v] = Operand{};
    } else {
      const float weight = args.weights ? args.weights[row0 + i] : 1.0f;
      args.losses[row0 + i] = softmax_row(args, logits + i * logits_row, target, weight, dlogits_i);
    }
    if (with_gradients && V % kGroup) dlogits_i[V] = Operand{};
  }
  if (!with_gradients) return;
  Scalar* dx = static_cast<Scalar*>(args.dx) + row0 * D;
  multiply(rows, D, words(V), left_rows_in_place(dlogits, dlogits_row), Right{scratch.along.get(), words(V)},
           [=](long m, long n, Vector sum, long valid) RYOT_ALWAYS_INLINE { store_some(dx + m * D + n, valid, sum); });
  pack_left(dlogits, dlogits_row, rows, V, left_step(scratch.left.get(), step0), scratch.steps);
  pack_right(x, D, rows, D, right_step(scratch.right.get(), step0), scratch.steps);
}

static Status linear_cross_entropy(const Parallel& parallel, const LinearCrossEntropyArgs& args) {
  const long N = args.rows, D = args.width, V = args.vocabulary, workers = parallel.num_workers();
  const CrossEntropyScratch scratch(args, workers);
  if (!scratch.complete()) return Status::kNoMemory;
  for (long pass0 = 0; pass0 < larger(N, 1); pass0 += scratch.pass_rows) {
    const long pass_end = smaller(N, pass0 + scratch.pass_rows);
    auto packing_across = packing_weights(args.w, true, D, V, scratch.across.get());
    auto packing_along = packing_weights(args.w, false, V, D, scratch.along.get());
    if (pass0 > 0) packing_across.count = 0;
    if (pass0 > 0 || !scratch.with_gradients) packing_along.count = 0;
    const auto chunks = tasks(divide_up(pass_end - pass0, kLogitsRows), [&](long task, long, long worker) {
      const long row0 = pass0 + task * kLogitsRows;
      cross_entropy_chunk(args, scratch, row0, smaller(kLogitsRows, pass_end - row0), (row0 - pass0) / kGroup, worker);
    });
    auto summing = weight_gradient(workers, V, D, scratch.steps, words(pass_end - pass0), scratch.left.get(),
                                   scratch.right.get(), args.dw, pass0 > 0);
    if (!scratch.with_gradients) summing.count = 0;
    run(parallel, packing_across, packing_along, chunks, summing);
  }
  return Status::kDone;
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_OPS_LINEAR_CROSS_ENTROPY_H_
