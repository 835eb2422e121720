// Backward pass of attention: see ops/attention_parts.h.
#ifndef RYOT_KERNELS_CPU_OPS_ATTENTION_BACKWARD_H_
#define RYOT_KERNELS_CPU_OPS_ATTENTION_BACKWARD_H_

#include "attention_parts.h"

namespace ryot {
namespace {

// A worker's scratch for the backward pass: packed operands, and sums in float32.
struct BackwardScratch {
  Word *key_copy, *value_copy;  // if rows are not whole words
  Word* keys_along;             // k, for ds k
  Word *q_across, *do_across;   // q^T and do^T of a panel, for k q^T and v do^T
  Word *q_along, *do_along;     // q and do of a panel, for ds^T q and p^T do
  float *dq, *dk, *dv;          // dq of a panel, dk and dv of all keys; rows of round_up(K, kPanel)
  static long size(long S, long K) {
    return 2 * round_up(S * words(K), 16) + packed_words(S, K) + 2 * packed_words(K, kPanel) +
           2 * packed_words(kPanel, K) + (kPanel + 2 * S) * round_up(K, kPanel);
  }
  BackwardScratch(Word* start, long S, long K) {
    const auto take = [&start](long count) {
      Word* taken = start;
      start += count;
      return taken;
    };
    const long row = round_up(K, kPanel);
    key_copy = take(round_up(S * words(K), 16)), value_copy = take(round_up(S * words(K), 16));
    keys_along = take(packed_words(S, K));
    q_across = take(packed_words(K, kPanel)), do_across = take(packed_words(K, kPanel));
    q_along = take(packed_words(kPanel, K)), do_along = take(packed_words(kPanel, K));
    dq = reinterpret_cast<float*>(take(kPanel * row));
    dk = reinterpret_cast<float*>(take(S * row)), dv = reinterpret_cast<float*>(take(S * row));
  }
};

// Computes the probabilities and score gradients of a tile of `rows` keys from key0 on: p_rows and
// ds_rows[rows][kPanel], and the latter also as words.
RYOT_INLINE void attention_score_gradients(const AttentionArgs& args, const LeftRows& keys, const LeftRows& values,
                                           const BackwardScratch& scratch, long b, long q0, long key0, long rows,
                                           const Vector (&log_sum_exp)[kPanelVectors], const float* products,
                                           Operand* p_rows, Operand* ds_rows, Word* ds_words) {
  const long K = args.head_width;
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(K));
  alignas(64) float scores[kStoredRows * kPanel], dp[kStoredRows * kPanel];
  IntVector sees[kPanelVectors] = {};
  multiply_stored(keys, key0, rows, {scratch.q_across, words(K)}, words(K), scores);
  mask_scores(args, b, q0, key0, rows, scores, sees);
  multiply_stored(values, key0, rows, {scratch.do_across, words(K)}, words(K), dp);
  for (long i = 0; i < rows; i += kGroup)
    for (long v = 0; v < kPanelVectors; ++v) {
      Vector ds[kGroup];
      for (long g = 0; g < kGroup; ++g) {
        const long at = (i + g) * kPanel + v * kLanes;
        Vector p = Vector{};
        ds[g] = Vector{};
        if (i + g < rows) {
          p = softmax_term(load(scores + at), scale, log_sum_exp[v]);
          // 0, not 0 * NaN, which a hidden key or a query that sees no key could cause
          ds[g] = p == 0.0f ? Vector{} : scale * p * (load(dp + at) - load(products + v * kLanes));
        }
        store(p_rows + at, p);
        store(ds_rows + at, ds[g]);
      }
      store_words(ds_words + i / kGroup * kPanel + v * kLanes, ds);
    }
}

// Computes dq of the panel of queries from q0 on of one head, and adds the panel's share to dk and dv.
static void attention_backward_panel(const AttentionArgs& args, const BackwardScratch& scratch, const LeftRows& keys,
                                     const LeftRows& values, long b, long head, long q0) {
  const long T = args.queries, K = args.head_width, row = round_up(K, kPanel);
  const long queries = smaller(kPanel, T - q0);
  const Scalar *q = head_at(args, args.q, b, T, head) + q0 * args.q.row;
  const Scalar *o = head_at(args, args.o, b, T, head) + q0 * args.o.row;
  const Scalar* d_o = head_at(args, args.d_o, b, T, head) + q0 * args.d_o.row;
  pack_right_transposed(q, args.q.row, K, queries, scratch.q_across, words(K));
  pack_right_transposed(d_o, args.d_o.row, K, queries, scratch.do_across, words(K));
  pack_right(q, args.q.row, queries, K, scratch.q_along, words(kPanel));
  pack_right(d_o, args.d_o.row, queries, K, scratch.do_along, words(kPanel));

  // log(sum(exp)) of each query, and sum_j p_j dp_j = do . o; padding queries of the panel have zero probabilities.
  alignas(64) float products[kPanel] = {};
  for (long i = 0; i < queries; ++i) {
    Vector sum = Vector{};
    for (long k = 0; k < K; k += kLanes)
      sum += load_some(d_o + i * args.d_o.row + k, K - k) * load_some(o + i * args.o.row + k, K - k);
    products[i] = horizontal_sum(sum);
  }
  Vector log_sum_exp[kPanelVectors];
  const float* log_sum_exps = args.log_sum_exp + (b * args.heads + head) * T + q0;
  for (long v = 0; v < kPanelVectors; ++v)
    log_sum_exp[v] = load_some(log_sum_exps + v * kLanes, larger(0, queries - v * kLanes), __builtin_inff());

  alignas(64) Operand p_rows[kKeys * kPanel], ds_rows[kKeys * kPanel];
  alignas(64) Word ds_words[kKeys / kGroup * kPanel];
  float* const dq = scratch.dq;
  for (long i = 0; i < kPanel * row; i += kLanes) store(dq + i, Vector{});
  const auto add_to = [row](float* sums) {
    return [=](long m, long n, Vector v, long) RYOT_ALWAYS_INLINE {
      store(sums + m * row + n, load(sums + m * row + n) + v);
    };
  };
  const Range seen = visible_keys(args, q0, q0 + queries);
  for (long s0 = seen.first; s0 < seen.last; s0 += kKeys) {
    const long count = smaller(kKeys, seen.last - s0);
    for (long j = 0; j < count; j += kStoredRows)
      attention_score_gradients(args, keys, values, scratch, b, q0, s0 + j, smaller(kStoredRows, count - j),
                                log_sum_exp, products, p_rows + j * kPanel, ds_rows + j * kPanel,
                                ds_words + j / kGroup * kPanel);
    multiply<kStoredRows>(count, K, words(queries), left_rows_in_place(p_rows, kPanel),
                          Right{scratch.do_along, words(kPanel)}, add_to(scratch.dv + s0 * row));
    multiply<kStoredRows>(count, K, words(queries), left_rows_in_place(ds_rows, kPanel),
                          Right{scratch.q_along, words(kPanel)}, add_to(scratch.dk + s0 * row));
    multiply<kStoredRows>(queries, K, words(count), left_panel(ds_words, words(count)),
                          Right{scratch.keys_along, words(args.keys)}.from_step(s0 / kGroup), add_to(dq));
  }
  Scalar* out = head_at(args, args.dq, b, T, head) + q0 * args.dq.row;
  for (long m = 0; m < queries; ++m)
    for (long k = 0; k < K; k += kLanes) store_some(out + m * args.dq.row + k, K - k, load(dq + m * row + k));
}

static Status attention_backward(const Parallel& parallel, const AttentionArgs& args) {
  const long T = args.queries, S = args.keys, K = args.head_width, group = args.heads / args.kv_heads;
  const long row = round_up(K, kPanel);
  const long scratch_size = round_up(BackwardScratch::size(S, K), 16);
  const Scratch<Word> scratches(parallel.num_workers() * scratch_size);
  if (!scratches.get()) return Status::kNoMemory;

  const auto heads = tasks(args.batch * args.kv_heads, [&](long task, long next, long worker) {
    const BackwardScratch scratch(scratches.get() + worker * scratch_size, S, K);
    const long b = task / args.kv_heads, kv_head = task % args.kv_heads;
    const Scalar *k = head_at(args, args.k, b, S, kv_head), *v = head_at(args, args.v, b, S, kv_head);
    Scalar *dk = head_at(args, args.dk, b, S, kv_head), *dv = head_at(args, args.dv, b, S, kv_head);
    const LeftRows keys = left_rows(k, args.k.row, S, K, scratch.key_copy);
    const LeftRows values = left_rows(v, args.v.row, S, K, scratch.value_copy);
    pack_right(k, args.k.row, S, K, scratch.keys_along, words(S));
    for (long i = 0; i < 2 * S * row; i += kLanes) store(scratch.dk + i, Vector{});  // dk, and dv, which follows it
    for (long i = 0; i < group; ++i)
      for (long q0 = 0; q0 < T; q0 += kPanel) {
        const long last = smaller(T, q0 + kPanel), head = kv_head * group + i;
        if (next >= 0) {
          const long next_b = next / args.kv_heads, next_head = next % args.kv_heads;
          for (const Heads* h : {&args.q, &args.o, &args.d_o})
            prefetch_rows<false>(head_at(args, *h, next_b, T, next_head * group + i), h->row, q0, last, K);
          if (i == 0)
            for (const Heads* h : {&args.k, &args.v})
              prefetch_rows<false>(head_at(args, *h, next_b, S, next_head), h->row, q0, smaller(S, last), K);
        }
        prefetch_rows<true>(head_at(args, args.dq, b, T, head), args.dq.row, q0, last, K);
        attention_backward_panel(args, scratch, keys, values, b, head, q0);
      }
    for (long s = 0; s < S; ++s)
      for (long n = 0; n < K; n += kLanes) {
        store_some(dk + s * args.dk.row + n, K - n, load(scratch.dk + s * row + n));
        store_some(dv + s * args.dv.row + n, K - n, load(scratch.dv + s * row + n));
      }
  });
  run(parallel, heads);
  return Status::kDone;
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_OPS_ATTENTION_BACKWARD_H_
