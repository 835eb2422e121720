// Attention for `decode_step`: rows of a sequence against the keys and values in its cache.
#ifndef RYOT_KERNELS_CPU_OPS_DECODE_ATTENTION_H_
#define RYOT_KERNELS_CPU_OPS_DECODE_ATTENTION_H_

#include "../core/functions.h"
#include "decode_scratch.h"

namespace ryot {
namespace {

// Vectors of keys whose scores are summed at once: as many sums as the registers hold.
constexpr long kKeyVectors = Traits::kRegisters >= 32 ? 4 : 2;
template <long kValue>
struct Constant {
  static constexpr long value = kValue;
};

// Rotates the pairs (i, i + K / 2) of a head by the angles of its position, given as cosines, then sines.
RYOT_INLINE void rotate(const float* angles, long K, float* head) {
  for (long i = 0; i < K / 2; ++i) {
    const float cosine = angles[i], sine = angles[K / 2 + i], first = head[i], second = head[K / 2 + i];
    head[i] = first * cosine - second * sine;
    head[K / 2 + i] = second * cosine + first * sine;
  }
}

// One head of kRows rows of one sequence, each of which sees one position more than the previous one: `out` = softmax(q
// k^T / sqrt(K)) v over the first `seen` + row positions. Keys are [words of K][capacity], so that neighbouring lanes
// are neighbouring keys; values are [words of positions][K]. Rows share loads, and nothing else.
template <long kRows>
RYOT_NOINLINE void attend_rows(const Word* q, long q_row, const Word* keys, const Word* values,
                                                  long K, long capacity, long seen, float* scores, Word* weights,
                                                  Operand* out, long out_row) {
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(K));
  const long vectors = divide_up(seen + kRows - 1, kLanes), weights_row = words(capacity);
  const auto score = [=](long v, auto count) RYOT_ALWAYS_INLINE {
    constexpr long kVectors = decltype(count)::value;
    Vector sum[kRows][kVectors] = {};
    for (long k = 0; k < words(K); ++k)
#pragma GCC unroll 4
      for (long j = 0; j < kVectors; ++j) {
        const Vector key = load_words(keys + k * capacity + (v + j) * kLanes);
#pragma GCC unroll 4
        for (long i = 0; i < kRows; ++i) sum[i][j] = multiply_add(sum[i][j], q + i * q_row + k, key);
      }
    for (long i = 0; i < kRows; ++i)
      for (long j = 0; j < kVectors; ++j) store(scores + i * capacity + (v + j) * kLanes, sum[i][j]);
  };
  long v = 0;
  for (; v + kKeyVectors <= vectors; v += kKeyVectors) score(v, Constant<kKeyVectors>{});
  for (; v < vectors; ++v) score(v, Constant<1>{});

  float share[kRows];
  for (long i = 0; i < kRows; ++i) {
    float* const row = scores + i * capacity;
    Operand* const rounded = reinterpret_cast<Operand*>(weights + i * weights_row);
    const long ends = round_up(seen + i, kLanes);
    for (long t = seen + i; t < ends; ++t) row[t] = -__builtin_inff();
    const Vector shift = splat(max_of(row, ends) * scale);
    Vector total = Vector{};
    for (long t = 0; t < ends; t += kLanes) {
      const Vector term = softmax_term(load(row + t), scale, shift);
      store(rounded + t, term);
      total += term;
    }
    share[i] = 1.0f / horizontal_sum(total);
  }
  // Chains of sums for each vector of the head, each over every kChains-th word of positions.
  constexpr long kChains = 4;
  const long together = seen / kGroup / kChains * kChains;
  for (long k = 0; k < K; k += kLanes) {
    const long valid = K - k;
    const auto value = [=](long t) RYOT_ALWAYS_INLINE {
      return load_some(reinterpret_cast<const float*>(values) + t * K + k, valid);
    };
    Vector sum[kRows][kChains] = {};
    for (long t = 0; t < together; t += kChains)
#pragma GCC unroll 4
      for (long j = 0; j < kChains; ++j) {
        const Vector here = value(t + j);
#pragma GCC unroll 4
        for (long i = 0; i < kRows; ++i) sum[i][j] = multiply_add(sum[i][j], weights + i * weights_row + t + j, here);
      }
    for (long i = 0; i < kRows; ++i) {
      for (long t = together; t < words(seen + i); ++t)
        sum[i][t % kChains] = multiply_add(sum[i][t % kChains], weights + i * weights_row + t, value(t));
      store_some(out + i * out_row + k, valid, ((sum[i][0] + sum[i][1]) + (sum[i][2] + sum[i][3])) * share[i]);
    }
  }
}
template <long kRows>
RYOT_INLINE void attend_few(long rows, const Word* q, long q_row, const Word* keys, const Word* values, long K,
                            long capacity, long seen, float* scores, Word* weights, Operand* out, long out_row) {
  if constexpr (kRows > 1) {
    if (rows < kRows)
      return attend_few<kRows - 1>(rows, q, q_row, keys, values, K, capacity, seen, scores, weights, out, out_row);
  }
  attend_rows<kRows>(q, q_row, keys, values, K, capacity, seen, scores, weights, out, out_row);
}

// Rounds one head of a row, K numbers, to words.
RYOT_INLINE void round_head(const float* head, long K, Operand* rounded) {
  each_vector(K, [=](long k, long valid) RYOT_ALWAYS_INLINE {
    store_some(rounded + k, valid, load_some(head + k, valid));
  });
  if (K % kGroup) rounded[K] = Operand{};
}

// Rotates a row's queries and keys by its position, rounds the queries, and writes keys and values to the cache.
RYOT_INLINE void remember_row(const DecodeArgs& args, const StepScratch& scratch, long layer, long row) {
  const long D = args.width, H = args.heads, K = D / H, T = args.capacity;
  const auto [sequence, index, position] = scratch.rows[row];
  float* const q = scratch.qkv + row * StepScratch::line(3 * D);
  if (args.rotations)
    for (long head = 0; head < 2 * H; ++head) rotate(args.rotations + position * K, K, q + head * K);
  const long first_head = (layer * args.batch + sequence) * H;
  const Word* const rounded_words = reinterpret_cast<const Word*>(scratch.rounded);
  for (long head = 0; head < H; ++head) {
    round_head(q + head * K, K, reinterpret_cast<Operand*>(scratch.queries + (row * H + head) * words(K)));
    round_head(q + D + head * K, K, scratch.rounded);
    Word* const keys = args.keys + (first_head + head) * words(K) * T + position;
    for (long k = 0; k < words(K); ++k) keys[k * T] = rounded_words[k];
    round_head(q + 2 * D + head * K, K, scratch.rounded);
    Word* const values = args.values + ((first_head + head) * words(T) + position / kGroup) * K;
    // The first position of a word clears the rest of it, left over from another text: 0 times it could be NaN.
    for (long k = 0; k < K; ++k) {
      if (position % kGroup == 0) values[k] = 0;
      reinterpret_cast<Operand*>(values + k)[position % kGroup] = scratch.rounded[k];
    }
  }
}

// Computes the attention of all rows into scratch.attended.
static void attention_of_rows(const DecodeArgs& args, const StepScratch& scratch, long layer, long rows) {
  const long D = args.width, H = args.heads, K = D / H, T = args.capacity;
  const long q_row = H * words(K), out_row = words(D) * kGroup;
  for (long row = 0; row < rows; ++row) remember_row(args, scratch, layer, row);
  for (long row = 0, count; row < rows; row += count) {
    const auto [sequence, index, position] = scratch.rows[row];
    count = 1;
    while (count < kRowsTogether && row + count < rows && scratch.rows[row + count].sequence == sequence) ++count;
    const long first_head = (layer * args.batch + sequence) * H;
    Operand* const out = scratch.attended + row * out_row;
    for (long head = 0; head < H; ++head)
      attend_few<kRowsTogether>(count, scratch.queries + row * q_row + head * words(K), q_row,
                                args.keys + (first_head + head) * words(K) * T,
                                args.values + (first_head + head) * words(T) * K, K, T, position + 1, scratch.scores,
                                scratch.weights, out + head * K, out_row);
    if (D % kGroup)
      for (long i = 0; i < count; ++i) out[i * out_row + D] = Operand{};
  }
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_OPS_DECODE_ATTENTION_H_
