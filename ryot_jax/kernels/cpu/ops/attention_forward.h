// Forward pass of attention: see ops/attention_parts.h.
#ifndef RYOT_KERNELS_CPU_OPS_ATTENTION_FORWARD_H_
#define RYOT_KERNELS_CPU_OPS_ATTENTION_FORWARD_H_

#include "attention_parts.h"

namespace ryot {
namespace {

// A worker's scratch for the forward pass.
struct ForwardScratch {
  Word* key_copy;  // if rows are not whole words
  Word* values;    // v, for p v
  Word* q_across;  // q^T of a panel, for k q^T
  float* sum_o;    // [kPanel, round_up(K, kPanel)]
  static long size(long S, long K) {
    return round_up(S * words(K), 16) + packed_words(S, K) + packed_words(K, kPanel) + kPanel * round_up(K, kPanel);
  }
  ForwardScratch(Word* start, long S, long K) {
    key_copy = start;
    values = key_copy + round_up(S * words(K), 16);
    q_across = values + packed_words(S, K);
    sum_o = reinterpret_cast<float*>(q_across + packed_words(K, kPanel));
  }
};

// Computes the scores of `count` keys from s0 on, and updates the largest ones so far.
RYOT_INLINE void attention_scores(const AttentionArgs& args, const LeftRows& keys, Right q_across, long b, long q0,
                                  long s0, long count, float* scores, IntVector (&sees)[kPanelVectors],
                                  Vector (&new_top)[kPanelVectors]) {
  for (long j = 0; j < count; j += kStoredRows) {
    const long rows = smaller(kStoredRows, count - j);
    float* tile = scores + j * kPanel;
    multiply_stored(keys, s0 + j, rows, q_across, words(args.head_width), tile);
    mask_scores(args, b, q0, s0 + j, rows, tile, sees);
    for (long i = 0; i < rows; ++i)
      for (long v = 0; v < kPanelVectors; ++v) {
        const Vector score = load(tile + i * kPanel + v * kLanes);
        new_top[v] = score > new_top[v] ? score : new_top[v];
      }
  }
}

// Turns the scores of `count` keys into words of their exponentials, and rescales the previous sums to the new top by
// factors[kPanel].
RYOT_INLINE void attention_weights(float scale, long count, float* scores, const Vector (&new_top)[kPanelVectors],
                                   Vector (&top)[kPanelVectors], Vector (&sum)[kPanelVectors], float* factors,
                                   Word* weights) {
  Vector shift[kPanelVectors];
  for (long v = 0; v < kPanelVectors; ++v) {
    // No shift while every key is hidden (or its score is -inf, or NaN, which persists).
    shift[v] = new_top[v] == -__builtin_inff() ? Vector{} : scale * new_top[v];
    const Vector factor = softmax_term(top[v], scale, shift[v]);
    store(factors + v * kLanes, factor);
    sum[v] *= factor;
    top[v] = new_top[v];
  }
  if (count % kGroup)
    for (long v = 0; v < kPanelVectors; ++v) store(scores + count * kPanel + v * kLanes, splat(-__builtin_inff()));
  for (long j = 0; j < count; j += kGroup)
    for (long v = 0; v < kPanelVectors; ++v) {
      Vector p[kGroup];
      for (long g = 0; g < kGroup; ++g) {
        p[g] = softmax_term(load(scores + (j + g) * kPanel + v * kLanes), scale, shift[v]);
        sum[v] += p[g];
      }
      store_words(weights + j / kGroup * kPanel + v * kLanes, p);
    }
}

// Stores zeros for a query that sees no key; otherwise the weighted values, NaN if all of its scores are -inf.
RYOT_INLINE void attention_store(const AttentionArgs& args, long b, long head, long q0,
                                 const Vector (&tops)[kPanelVectors], const Vector (&sums)[kPanelVectors],
                                 const IntVector (&all_sees)[kPanelVectors], const float* sum_o) {
  const long T = args.queries, K = args.head_width, o_row = round_up(K, kPanel), queries = smaller(kPanel, T - q0);
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(K));
  alignas(64) float inverse[kPanel];
  float* log_sum_exp = args.log_sum_exp + (b * args.heads + head) * T + q0;
  for (long v = 0; v < kPanelVectors && v * kLanes < queries; ++v) {
    const Vector top = tops[v], sum = sums[v];
    const IntVector sees = all_sees[v];
    store(inverse + v * kLanes, sees ? 1.0f / sum : Vector{});
    const Vector shift = top == -__builtin_inff() ? Vector{} : scale * top;
    store_some(log_sum_exp + v * kLanes, queries - v * kLanes, sees ? shift + log_of(sum) : splat(__builtin_inff()));
  }
  Scalar* o = head_at(args, args.o, b, T, head) + q0 * args.o.row;
  for (long m = 0; m < queries; ++m)
    for (long k = 0; k < K; k += kLanes)
      store_some(o + m * args.o.row + k, K - k, load(sum_o + m * o_row + k) * inverse[m]);
}

// Computes o and log(sum(exp)) of the panel of queries from q0 on of one head.
static void attention_forward_panel(const AttentionArgs& args, const ForwardScratch& scratch, const LeftRows& keys,
                                    long b, long head, long q0) {
  const long T = args.queries, S = args.keys, K = args.head_width, o_row = round_up(K, kPanel);
  const long queries = smaller(kPanel, T - q0);
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(K));
  const Range seen = visible_keys(args, q0, q0 + queries);
  float* const sum_o = scratch.sum_o;
  alignas(64) float scores[kKeys * kPanel], factors[kPanel];
  alignas(64) Word weights[kKeys / kGroup * kPanel];
  Vector top[kPanelVectors], sum[kPanelVectors];  // of the online softmax, one lane per query
  IntVector sees[kPanelVectors];                  // whether it sees any key
  for (long v = 0; v < kPanelVectors; ++v) {
    top[v] = splat(-__builtin_inff()), sum[v] = Vector{};
    sees[v] = IntVector{} - static_cast<int>(S > 0 && !args.mask);  // without padding every query sees its own key
  }
  if (seen.first >= seen.last)
    for (long i = 0; i < kPanel * o_row; i += kLanes) store(sum_o + i, Vector{});
  pack_right_transposed(head_at(args, args.q, b, T, head) + q0 * args.q.row, args.q.row, K, queries, scratch.q_across,
                        words(K));

  for (long s0 = seen.first; s0 < seen.last; s0 += kKeys) {
    const long count = smaller(kKeys, seen.last - s0);
    Vector new_top[kPanelVectors];
    for (long v = 0; v < kPanelVectors; ++v) new_top[v] = top[v];
    attention_scores(args, keys, {scratch.q_across, words(K)}, b, q0, s0, count, scores, sees, new_top);
    attention_weights(scale, count, scores, new_top, top, sum, factors, weights);
    const bool first = s0 == seen.first;
    const float* const factor = factors;
    multiply<kStoredRows>(queries, K, words(count), left_panel(weights, words(count)),
                          Right{scratch.values, words(S)}.from_step(s0 / kGroup),
                          [=](long m, long n, Vector v, long) RYOT_ALWAYS_INLINE {
                            float* p = sum_o + m * o_row + n;
                            store(p, first ? v : load(p) * factor[m] + v);
                          });
  }
  attention_store(args, b, head, q0, top, sum, sees, sum_o);
}

static Status attention_forward(const Parallel& parallel, const AttentionArgs& args) {
  const long T = args.queries, S = args.keys, K = args.head_width, group = args.heads / args.kv_heads;
  const long scratch_size = round_up(ForwardScratch::size(S, K), 16);
  const Scratch<Word> scratches(parallel.num_workers() * scratch_size);
  if (!scratches.get()) return Status::kNoMemory;
  const auto heads = tasks(args.batch * args.kv_heads, [&](long task, long next, long worker) {
    const ForwardScratch scratch(scratches.get() + worker * scratch_size, S, K);
    const long b = task / args.kv_heads, kv_head = task % args.kv_heads;
    const LeftRows keys = left_rows(head_at(args, args.k, b, S, kv_head), args.k.row, S, K, scratch.key_copy);
    pack_right(head_at(args, args.v, b, S, kv_head), args.v.row, S, K, scratch.values, words(S));
    for (long i = 0; i < group; ++i)
      for (long q0 = 0; q0 < T; q0 += kPanel) {
        const long last = smaller(T, q0 + kPanel), head = kv_head * group + i;
        if (next >= 0) {
          const long next_b = next / args.kv_heads, next_head = next % args.kv_heads;
          prefetch_rows<false>(head_at(args, args.q, next_b, T, next_head * group + i), args.q.row, q0, last, K);
          if (i == 0)
            for (const Heads* h : {&args.k, &args.v})
              prefetch_rows<false>(head_at(args, *h, next_b, S, next_head), h->row, q0, smaller(S, last), K);
        }
        prefetch_rows<true>(head_at(args, args.o, b, T, head), args.o.row, q0, last, K);
        attention_forward_panel(args, scratch, keys, b, head, q0);
      }
  });
  run(parallel, heads);
  return Status::kDone;
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_OPS_ATTENTION_FORWARD_H_
