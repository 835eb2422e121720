// One step of decoding with a pre-norm transformer: a few new tokens of each sequence through all layers, against a
// cache of the keys and values before them.
//
// A step of a small model consists of a hundred small operations: one call saves the cost of launching each. Tasks are
// whole sequences, so no thread waits for another; the rows of a task go through the layers in chunks that stay in the
// first-level cache, and each chunk reads the weights once.
//
// The results for a row depend on its token and on the cache alone, not on the number or the choice of rows: every sum
// of a product or of attention runs over its terms in order, and a tile of several rows runs the same chain of
// multiply_adds for each row. Several tokens checked at once therefore give bitwise the same results as one at a time,
// on which speculative decoding relies.
#ifndef RYOT_KERNELS_CPU_OPS_DECODE_STEP_H_
#define RYOT_KERNELS_CPU_OPS_DECODE_STEP_H_

#include "../core/functions.h"
#include "../core/loops.h"
#include "../core/scratch.h"
#include "../core/weights.h"
#include "decode_attention.h"
#include "norm.h"

namespace ryot {
namespace {

// Computes the norm of one row of x, as an operand.
RYOT_INLINE void norm_of_row(const DecodeArgs& args, const float* scale, const float* bias, const float* x, Operand* y) {
  const long D = args.width;
  float statistics[2];
  NormArgs norm = {};
  norm.width = D, norm.centre = args.centre, norm.epsilon = args.epsilon, norm.scale = scale, norm.bias = bias;
  norm.statistics = statistics;
  take_statistics(norm, 0, x);
  const float mean = statistics[0], inverse = statistics[1];
  each_vector(D, [=](long d, long valid) RYOT_ALWAYS_INLINE {
    store_some(y + d, valid, scale_and_shift(norm, d, valid, (load(x + d) - mean) * inverse));
  });
  if (D % kGroup) y[D] = Operand{};
}

// Computes the norms of all rows of the residual stream into scratch.normed.
RYOT_INLINE void norm_of_rows(const DecodeArgs& args, const StepScratch& scratch, long rows, const float* scale,
                              const float* bias) {
  const long D = args.width, x_row = StepScratch::line(round_up(D, kLanes));
  for (long m = 0; m < rows; ++m)
    norm_of_row(args, scale, bias, scratch.x + m * x_row, scratch.normed + m * words(D) * kGroup);
}

// Adds the product of operands[rows][inputs] with packed weights, and a bias, to the residual stream.
static void add_to_stream(const DecodeArgs& args, const StepScratch& scratch, long rows, long inputs,
                          const Operand* operands, const Word* weights, const float* bias) {
  const long D = args.width, x_row = StepScratch::line(round_up(D, kLanes));
  float* const x = scratch.x;
  multiply_row_by_row(rows, D, words(inputs), reinterpret_cast<const Word*>(operands), weights,
                [=](long m, long n, Vector sum, long valid) RYOT_ALWAYS_INLINE {
                  const Vector value = bias ? sum + load_some(bias + n, valid) : sum;
                  store_some(x + m * x_row + n, valid, load_some(x + m * x_row + n, valid) + value);
                });
}

static void mlp_of_rows(const DecodeArgs& args, const StepScratch& scratch, const DecodeLayer& layer, long rows) {
  const long D = args.width, F = args.hidden, hidden_row = words(F) * kGroup;
  const float* const up_bias = layer.up_bias;
  const Word* const normed = reinterpret_cast<const Word*>(scratch.normed);
  Operand* const hidden = scratch.hidden;
  const auto biased = [=](long n, Vector sum, long valid) RYOT_ALWAYS_INLINE {
    return up_bias ? sum + load_some(up_bias + n, valid) : sum;
  };
  if (args.activation == Activation::kSwiglu) {
    float* const up = scratch.up;
    const long up_row = StepScratch::line(2 * F);
    multiply_row_by_row(rows, 2 * F, words(D), normed, layer.up, [=](long m, long n, Vector sum, long valid) RYOT_ALWAYS_INLINE {
      store_some(up + m * up_row + n, valid, biased(n, sum, valid));
    });
    for (long m = 0; m < rows; ++m)
      each_vector(F, [=](long f, long valid) RYOT_ALWAYS_INLINE {
        const Vector gate = load_some(up + m * up_row + f, valid), value = load_some(up + m * up_row + F + f, valid);
        store_some(hidden + m * hidden_row + f, valid, gate * sigmoid(gate) * value);
      });
  } else {
    const bool is_gelu = args.activation == Activation::kGelu;
    multiply_row_by_row(rows, F, words(D), normed, layer.up, [=](long m, long n, Vector sum, long valid) RYOT_ALWAYS_INLINE {
      const Vector value = biased(n, sum, valid);
      store_some(hidden + m * hidden_row + n, valid, is_gelu ? gelu(value).value : relu(value) * relu(value));
    });
  }
  if (F % kGroup)
    for (long m = 0; m < rows; ++m) hidden[m * hidden_row + F] = Operand{};
  add_to_stream(args, scratch, rows, F, hidden, layer.down, layer.down_bias);
}

static void layer_of_rows(const DecodeArgs& args, const StepScratch& scratch, long number, long rows) {
  const DecodeLayer& layer = args.layers[number];
  const long D = args.width, qkv_row = StepScratch::line(3 * D);
  float* const qkv = scratch.qkv;
  const float* const qkv_bias = layer.qkv_bias;
  norm_of_rows(args, scratch, rows, layer.attention_scale, layer.attention_bias);
  multiply_row_by_row(rows, 3 * D, words(D), reinterpret_cast<const Word*>(scratch.normed), layer.qkv,
                [=](long m, long n, Vector sum, long valid) RYOT_ALWAYS_INLINE {
                  store_some(qkv + m * qkv_row + n, valid, qkv_bias ? sum + load_some(qkv_bias + n, valid) : sum);
                });
  attention_of_rows(args, scratch, number, rows);
  add_to_stream(args, scratch, rows, D, scratch.attended, layer.out, layer.out_bias);
  norm_of_rows(args, scratch, rows, layer.mlp_scale, layer.mlp_bias);
  mlp_of_rows(args, scratch, layer, rows);
}

// Computes the logits and the most likely token (the first among equals) of the rows whose results are requested.
static void head_of_rows(const DecodeArgs& args, const StepScratch& scratch, long rows) {
  const long D = args.width, V = args.vocabulary, x_row = StepScratch::line(round_up(D, kLanes));
  long wanted = 0;
  float* logits[kStepRows];
  int32_t* tokens[kStepRows];
  for (long m = 0; m < rows; ++m) {
    const auto [sequence, index, position] = scratch.rows[m];
    if (args.last_only && index + 1 < args.counts[sequence]) continue;
    const long at = args.last_only ? sequence : sequence * args.steps + index;
    logits[wanted] = args.logits ? args.logits + at * V : nullptr;
    tokens[wanted] = args.best + at;
    norm_of_row(args, args.final_scale, args.final_bias, scratch.x + m * x_row,
                scratch.normed + wanted * words(D) * kGroup);
    ++wanted;
  }
  if (!wanted) return;
  float* const best = scratch.best;
  int32_t* const best_at = scratch.best_at;
  for (long i = 0; i < wanted * kLanes; ++i) best[i] = -__builtin_inff(), best_at[i] = 0x7fffffff;
  IntVector lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = i;
  float* const* const out = logits;
  multiply_row_by_row(wanted, V, words(D), reinterpret_cast<const Word*>(scratch.normed), args.head,
                [=](long m, long n, Vector sum, long valid) RYOT_ALWAYS_INLINE {
                  if (out[m]) store_some(out[m] + n, valid, sum);
                  float* const top_p = best + m * kLanes;
                  IntVector* const at_p = reinterpret_cast<IntVector*>(best_at + m * kLanes);
                  const Vector top = load(top_p);
                  IntVector larger_here = sum > top;
                  if (valid < kLanes) larger_here &= lanes < static_cast<int>(valid);
                  store(top_p, larger_here ? sum : top);
                  *at_p = larger_here ? lanes + static_cast<int>(n) : *at_p;
                });
  for (long m = 0; m < wanted; ++m) {
    const float top = horizontal_max(load(best + m * kLanes));
    int32_t token = 0x7fffffff;
    for (long i = 0; i < kLanes; ++i)
      if (best[m * kLanes + i] == top && best_at[m * kLanes + i] < token) token = best_at[m * kLanes + i];
    *tokens[m] = token < V ? token : 0;  // nothing is larger than -inf in a row of NaN
  }
}

static void chunk_of_rows(const DecodeArgs& args, const StepScratch& scratch, long rows) {
  const long D = args.width, x_row = StepScratch::line(round_up(D, kLanes));
  for (long m = 0; m < rows; ++m) {
    const auto [sequence, index, position] = scratch.rows[m];
    const float* const embedding = args.table + args.tokens[sequence * args.steps + index] * D;
    const float* const of_position = args.positions ? args.positions + position * D : nullptr;
    float* const x = scratch.x + m * x_row;
    each_vector(D, [=](long d, long valid) RYOT_ALWAYS_INLINE {
      const Vector token = load_some(embedding + d, valid);
      store(x + d, of_position ? token + load_some(of_position + d, valid) : token);
    });
  }
  for (long layer = 0; layer < args.num_layers; ++layer) layer_of_rows(args, scratch, layer, rows);
  head_of_rows(args, scratch, rows);
}

static Status decode_step(const Parallel& parallel, const DecodeArgs& args) {
  const long workers = parallel.num_workers(), size = StepScratch::size(args);
  const Scratch<Word> memory(workers * size);
  if (!memory.get()) return Status::kNoMemory;
  // Enough sequences per task to fill a chunk, but no fewer tasks than workers.
  const long most = divide_up(args.batch, workers), fitting = larger(1, kStepRows / larger(args.steps, 1));
  const long sequences = larger(1, smaller(most, fitting));
  const auto groups = tasks(divide_up(args.batch, sequences), [&](long group, long, long worker) {
    StepScratch scratch(memory.get() + worker * size, args);
    long rows = 0;
    for (long sequence = group * sequences; sequence < smaller(args.batch, (group + 1) * sequences); ++sequence)
      for (long i = 0; i < args.counts[sequence]; ++i) {
        scratch.rows[rows] = {sequence, i, args.lengths[sequence] + i};
        if (++rows < kStepRows) continue;
        chunk_of_rows(args, scratch, rows);
        rows = 0;
      }
    if (rows) chunk_of_rows(args, scratch, rows);
  });
  run(parallel, groups);
  return Status::kDone;
}

// Packs a right operand of decode_step from w[K, N], or from the transpose of w[N, K].
static Status pack_weights(const Parallel& parallel, const PackArgs& args) {
  const auto packing = packing_weights(args.w, args.transposed, args.inputs, args.outputs, args.packed);
  run(parallel, packing);
  return Status::kDone;
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_OPS_DECODE_STEP_H_
