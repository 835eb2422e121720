// Attention with an online softmax, one sequence and key head a task (Dao et al. 2022, "FlashAttention",
// arXiv:2205.14135).
//
// Scores are computed transposed: the queries of a panel lie side by side in the lanes of kPanelVectors vectors, and
// each key is a row. So whatever belongs to a query (its maximum, its sum) is a lane, and no sum runs across a vector;
// and two neighbouring rows of probabilities, rounded and interleaved, are words of an operand that is summed over the
// keys. Panels skip the keys that none of their queries sees. The forward pass keeps log(sum(exp)) per query; the
// backward pass computes the probabilities anew from it.

constexpr long kKeyRows = kPanel / 4;  // keys of a tile
constexpr long kKeys = 128;            // and of a block: its scores stay in the first-level cache
static_assert(kKeys % kKeyRows == 0 && kKeyRows % kGroup == 0 && kPanel % kGroup == 0, "blocks hold whole tiles");

// Keys [first, last) of which each is seen by one of the queries [q0, q1), but for those that fill the first tile.
struct Range {
  long first, last;
};
RYOT_INLINE Range visible_keys(const AttentionArgs& args, long q0, long q1) {
  if (!args.causal) return {0, args.keys};
  return {args.window > 0 ? larger(0, q0 - args.window + 1) / kKeyRows * kKeyRows : 0, smaller(args.keys, q1)};
}

RYOT_INLINE Scalar* head_at(const AttentionArgs& args, const Heads& heads, long batch, long positions, long head) {
  return static_cast<Scalar*>(heads.data) + batch * positions * heads.row + head * args.head_width;
}

// All rows of one head as a left operand: in place where they are whole words, else copied.
RYOT_INLINE LeftRows head_rows(const Scalar* head, long row, long count, long width, Word* copy) {
  if (width % kGroup == 0 && row % kGroup == 0) return {reinterpret_cast<const Word*>(head), row / kGroup};
  for (long i = 0; i < count; ++i)
    for (long k = 0; k < words(width); ++k)
      copy[i * words(width) + k] = make_word(head + i * row + k * kGroup, 1, width - k * kGroup);
  return {copy, words(width)};
}

// Asks for rows [first, last) of a head, which are far apart in memory.
template <bool kWrite>
RYOT_INLINE void prefetch_rows(const Scalar* head, long row, long first, long last, long width) {
  for (long i = first; i < last; ++i)
    for (long k = 0; k < width; k += 64 / static_cast<long>(sizeof(Scalar)))
      __builtin_prefetch(head + i * row + k, kWrite, 2);
}

// The products of `rows` rows from `first` on with the panel's columns: tile[rows][kPanel].
RYOT_INLINE void multiply_rows(const LeftRows& left, long first, long rows, const Word* panel, long steps,
                               float* tile) {
  const Word* a = left.data + first * left.row;
  if (rows < kKeyRows) return multiply_edge<kKeyRows>(rows, a, left.row, 1, panel, steps, tile);
  Vector sum[kKeyRows][kPanelVectors];
  multiply_tile<kKeyRows>(a, left.row, 1, panel, steps, sum);
  for (long i = 0; i < kKeyRows; ++i)
    for (long v = 0; v < kPanelVectors; ++v) store(tile + i * kPanel + v * kLanes, sum[i][v]);
}

// Sets scores[rows][kPanel] of keys from key0 on and queries from q0 on to -inf where the query does not see the key;
// where there is a padding mask, adds to `sees` the queries that see one of them.
RYOT_INLINE void hide(const AttentionArgs& args, long batch, long q0, long key0, long rows, float* scores,
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

// Scratch of one worker of the forward pass.
struct ForwardScratch {
  Word* key_copy;  // where rows are no whole words
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

// o and log(sum(exp)) of the panel of queries from q0 on of one head.
static void attention_forward_panel(const AttentionArgs& args, const ForwardScratch& scratch, const LeftRows& keys,
                                    long b, long head, long q0) {
  const long T = args.queries, S = args.keys, K = args.head_width, o_row = round_up(K, kPanel);
  const long queries = smaller(kPanel, T - q0);
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(K));
  const Range seen = visible_keys(args, q0, q0 + queries);
  float* const sum_o = scratch.sum_o;
  alignas(64) float scores[kKeys * kPanel], factors[kPanel];
  alignas(64) Word weights[kKeys / kGroup * kPanel];
  Vector top[kPanelVectors], sum[kPanelVectors];
  IntVector sees[kPanelVectors];
  for (long v = 0; v < kPanelVectors; ++v) {
    top[v] = splat(-__builtin_inff()), sum[v] = Vector{};
    sees[v] = IntVector{} - static_cast<int>(S > 0 && !args.mask);  // without padding all see their own key
  }
  if (seen.first >= seen.last)
    for (long i = 0; i < kPanel * o_row; i += kLanes) store(sum_o + i, Vector{});
  pack_right_transposed(head_at(args, args.q, b, T, head) + q0 * args.q.row, args.q.row, K, queries, scratch.q_across,
                        words(K) * kPanel);

  for (long s0 = seen.first; s0 < seen.last; s0 += kKeys) {
    const long count = smaller(kKeys, seen.last - s0);
    Vector new_top[kPanelVectors], shift[kPanelVectors];
    for (long v = 0; v < kPanelVectors; ++v) new_top[v] = top[v];
    for (long j = 0; j < count; j += kKeyRows) {
      const long rows = smaller(kKeyRows, count - j);
      float* tile = scores + j * kPanel;
      multiply_rows(keys, s0 + j, rows, scratch.q_across, words(K), tile);
      hide(args, b, q0, s0 + j, rows, tile, sees);
      for (long i = 0; i < rows; ++i)
        for (long v = 0; v < kPanelVectors; ++v) {
          const Vector score = load(tile + i * kPanel + v * kLanes);
          new_top[v] = score > new_top[v] ? score : new_top[v];
        }
    }
    for (long v = 0; v < kPanelVectors; ++v) {
      // Nothing to scale by while every key is hidden (or its score is -inf, or NaN, which stays one).
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
    const bool first = s0 == seen.first;
    const float* const factor = factors;
    multiply<kKeyRows>(queries, K, words(count), weights, 1, kPanel, scratch.values + s0 / kGroup * kPanel,
                       words(S) * kPanel, [=](long m, long n, Vector v, long) __attribute__((always_inline)) {
                         float* p = sum_o + m * o_row + n;
                         store(p, first ? v : load(p) * factor[m] + v);
                       });
  }

  // Without a key to see: zeros. With one, whatever the softmax of its scores is, NaN where all are -inf.
  alignas(64) float inverse[kPanel];
  float* log_sum_exp = args.log_sum_exp + (b * args.heads + head) * T + q0;
  for (long v = 0; v < kPanelVectors && v * kLanes < queries; ++v) {
    store(inverse + v * kLanes, sees[v] ? 1.0f / sum[v] : Vector{});
    const Vector shift = top[v] == -__builtin_inff() ? Vector{} : scale * top[v];
    store_some(log_sum_exp + v * kLanes, queries - v * kLanes,
               sees[v] ? shift + log_of(sum[v]) : splat(__builtin_inff()));
  }
  Scalar* o = head_at(args, args.o, b, T, head) + q0 * args.o.row;
  for (long m = 0; m < queries; ++m)
    for (long k = 0; k < K; k += kLanes)
      store_some(o + m * args.o.row + k, K - k, load(sum_o + m * o_row + k) * inverse[m]);
}

static bool attention_forward(const Parallel& parallel, const AttentionArgs& args) {
  const long T = args.queries, S = args.keys, K = args.head_width, group = args.heads / args.kv_heads;
  const long scratch_size = round_up(ForwardScratch::size(S, K), 16);
  const Scratch<Word> scratches(parallel.num_workers() * scratch_size);
  if (!scratches.get()) return false;
  const auto heads = tasks(args.batch * args.kv_heads, [&](long task, long next, long worker) {
    const ForwardScratch scratch(scratches.get() + worker * scratch_size, S, K);
    const long b = task / args.kv_heads, kv_head = task % args.kv_heads;
    const LeftRows keys = head_rows(head_at(args, args.k, b, S, kv_head), args.k.row, S, K, scratch.key_copy);
    pack_right(head_at(args, args.v, b, S, kv_head), args.v.row, S, K, scratch.values, words(S) * kPanel);
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
  return true;
}

// Scratch of one worker of the backward pass: packed operands, and sums in float32.
struct BackwardScratch {
  Word *key_copy, *value_copy;  // where rows are no whole words
  Word* keys_along;             // k, for ds k
  Word *q_across, *do_across;   // q^T and do^T of a panel, for k q^T and v do^T
  Word *q_along, *do_along;     // q and do of a panel, for ds^T q and p^T do
  float *dq, *dk, *dv;          // of a panel, and of all keys; rows of round_up(K, kPanel)
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

// dq of the panel of queries from q0 on of one head, and what it adds to dk and dv.
static void attention_backward_panel(const AttentionArgs& args, const BackwardScratch& scratch, const LeftRows& keys,
                                     const LeftRows& values, long b, long head, long q0) {
  const long T = args.queries, K = args.head_width, row = round_up(K, kPanel);
  const long queries = smaller(kPanel, T - q0);
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(K));
  const Scalar *q = head_at(args, args.q, b, T, head) + q0 * args.q.row;
  const Scalar *o = head_at(args, args.o, b, T, head) + q0 * args.o.row;
  const Scalar* d_o = head_at(args, args.d_o, b, T, head) + q0 * args.d_o.row;
  pack_right_transposed(q, args.q.row, K, queries, scratch.q_across, words(K) * kPanel);
  pack_right_transposed(d_o, args.d_o.row, K, queries, scratch.do_across, words(K) * kPanel);
  pack_right(q, args.q.row, queries, K, scratch.q_along, words(kPanel) * kPanel);
  pack_right(d_o, args.d_o.row, queries, K, scratch.do_along, words(kPanel) * kPanel);

  // log(sum(exp)) of each query, and sum_j p_j dp_j = do . o; queries that fill the panel up have no probabilities.
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

  alignas(64) float scores[kKeyRows * kPanel], dp[kKeyRows * kPanel];
  alignas(64) Scalar p_rows[kKeys * kPanel], ds_rows[kKeys * kPanel];
  alignas(64) Word ds_words[kKeys / kGroup * kPanel];
  IntVector sees[kPanelVectors] = {};
  float* const dq = scratch.dq;
  for (long i = 0; i < kPanel * row; i += kLanes) store(dq + i, Vector{});
  const auto add_to = [row](float* sums) {
    return [=](long m, long n, Vector v, long) __attribute__((always_inline)) {
      store(sums + m * row + n, load(sums + m * row + n) + v);
    };
  };
  const Range seen = visible_keys(args, q0, q0 + queries);
  for (long s0 = seen.first; s0 < seen.last; s0 += kKeys) {
    const long count = smaller(kKeys, seen.last - s0);
    for (long j = 0; j < count; j += kKeyRows) {
      const long rows = smaller(kKeyRows, count - j);
      multiply_rows(keys, s0 + j, rows, scratch.q_across, words(K), scores);
      hide(args, b, q0, s0 + j, rows, scores, sees);
      multiply_rows(values, s0 + j, rows, scratch.do_across, words(K), dp);
      for (long i = 0; i < rows; i += kGroup)
        for (long v = 0; v < kPanelVectors; ++v) {
          Vector ds[kGroup];
          for (long g = 0; g < kGroup; ++g) {
            const long at = (i + g) * kPanel + v * kLanes;
            Vector p = Vector{};
            ds[g] = Vector{};
            if (i + g < rows) {
              p = softmax_term(load(scores + at), scale, log_sum_exp[v]);
              // 0 and not 0 * NaN, which is what a hidden key or a query without any could make of it
              ds[g] = p == 0.0f ? Vector{} : scale * p * (load(dp + at) - load(products + v * kLanes));
            }
            store(p_rows + j * kPanel + at, p);
            store(ds_rows + j * kPanel + at, ds[g]);
          }
          store_words(ds_words + (j + i) / kGroup * kPanel + v * kLanes, ds);
        }
    }
    multiply<kKeyRows>(count, K, words(queries), reinterpret_cast<const Word*>(p_rows), kPanel / kGroup, 1,
                       scratch.do_along, words(kPanel) * kPanel, add_to(scratch.dv + s0 * row));
    multiply<kKeyRows>(count, K, words(queries), reinterpret_cast<const Word*>(ds_rows), kPanel / kGroup, 1,
                       scratch.q_along, words(kPanel) * kPanel, add_to(scratch.dk + s0 * row));
    multiply<kKeyRows>(queries, K, words(count), ds_words, 1, kPanel, scratch.keys_along + s0 / kGroup * kPanel,
                       words(args.keys) * kPanel, add_to(dq));
  }
  Scalar* out = head_at(args, args.dq, b, T, head) + q0 * args.dq.row;
  for (long m = 0; m < queries; ++m)
    for (long k = 0; k < K; k += kLanes) store_some(out + m * args.dq.row + k, K - k, load(dq + m * row + k));
}

static bool attention_backward(const Parallel& parallel, const AttentionArgs& args) {
  const long T = args.queries, S = args.keys, K = args.head_width, group = args.heads / args.kv_heads;
  const long row = round_up(K, kPanel);
  const long scratch_size = round_up(BackwardScratch::size(S, K), 16);
  const Scratch<Word> scratches(parallel.num_workers() * scratch_size);
  if (!scratches.get()) return false;

  const auto heads = tasks(args.batch * args.kv_heads, [&](long task, long next, long worker) {
    const BackwardScratch scratch(scratches.get() + worker * scratch_size, S, K);
    const long b = task / args.kv_heads, kv_head = task % args.kv_heads;
    const Scalar *k = head_at(args, args.k, b, S, kv_head), *v = head_at(args, args.v, b, S, kv_head);
    Scalar *dk = head_at(args, args.dk, b, S, kv_head), *dv = head_at(args, args.dv, b, S, kv_head);
    const LeftRows keys = head_rows(k, args.k.row, S, K, scratch.key_copy);
    const LeftRows values = head_rows(v, args.v.row, S, K, scratch.value_copy);
    pack_right(k, args.k.row, S, K, scratch.keys_along, words(S) * kPanel);
    for (long i = 0; i < 2 * S * row; i += kLanes) store(scratch.dk + i, Vector{});  // dk, and dv behind it
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
  return true;
}
