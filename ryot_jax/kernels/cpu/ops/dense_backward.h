// The gradients of a dense layer, and of a norm in front of it.
//
// A chunk's dy is multiplied by the slopes to give the gradient dh of x w + bias, and dh by the packed transposed
// weights to give dx; then x and dh are packed for the product that gives dw. If dw is small, kRowGroups groups of rows
// each accumulate a dw of their own, chunk by chunk, and the packed operands never leave the second-level cache.
// Otherwise they are kept for kPassRows rows at a time, and a second pass over them gives dw. With a norm in front a
// chunk ends with the norm's backward pass: its gradient never goes to memory.
#ifndef RYOT_KERNELS_CPU_OPS_DENSE_BACKWARD_H_
#define RYOT_KERNELS_CPU_OPS_DENSE_BACKWARD_H_

#include "../core/cache_sizes.h"
#include "dense_forward.h"

namespace ryot {
namespace {

constexpr long kPassRows = 48 * kDenseRows;
constexpr long kRowGroups = 8;
constexpr long kGroupRows = 22 * kTileRows;  // rows of a group's chunk
constexpr long kFewWorkers = 4;              // more would wait for the last group
static_assert(kGroupRows % (kGroup * kLeftSteps) == 0, "chunks hold whole words and steps");

// Computes rows [row0, row0 + rows) of dh into dh[rows][row_length].
RYOT_INLINE void dense_dh(const DenseArgs& args, long row0, long rows, Operand* dh, long row_length) {
  const long M = args.outputs, width = args.width();
  for (long i = 0; i < rows; ++i)
    for (long f = 0; f < width; f += kLanes) {
      const Vector dy = load_some(args.y, (row0 + i) * width + f, width - f);
      for (long part = f; part < M; part += width) {  // one, or gate and value
        const long valid = width - f;
        const Scalar* slope = static_cast<const Scalar*>(args.slopes) + (row0 + i) * M + part;
        store_some(dh + i * row_length + part, valid, args.slopes ? dy * load_some(slope, valid) : dy);
      }
    }
}

// The index-th chunk: rows [row0, row0 + rows), processed at a time.
struct Chunk {
  long row0, rows, index;
};

// A worker's scratch for a chunk, and the chunks' partial sums.
struct DenseBackwardScratch {
  DenseBackwardScratch(const DenseArgs& args, long workers, long chunks, long most_rows)
      : chunks(chunks),
        most_rows(most_rows),
        dh_row(round_up(args.outputs, kGroup)),
        norm_row(NormScratch::row_size(args.inputs)),
        in_place(kScalarIsOperand && args.activation == Activation::kNone &&
                 args.y.is_bfloat16 == kScalarIsBfloat16 && args.outputs % kGroup == 0),
        weights(packed_words(args.outputs, args.inputs)),
        dh(in_place ? 1 : workers * most_rows * dh_row),
        normed(args.norm ? workers * 2 * most_rows * args.inputs : 1),
        norm_scratch(args.norm ? workers * 2 * norm_row : 1),
        norm_sums(args.norm ? larger(chunks, 1) * 2 * norm_row : 1),
        dbias(args.dbias ? chunks * args.outputs : 1) {}
  bool complete() const {
    return weights.get() && dh.get() && normed.get() && norm_scratch.get() && norm_sums.get() && dbias.get();
  }
  // Adds up the gradients of which every chunk has its own sums.
  void add_up(const DenseArgs& args) const {
    if (args.norm) sum_norm_chunks(*args.norm, norm_sums.get(), chunks);
    if (args.dbias) sum_rows(dbias.get(), chunks, args.outputs, args.outputs, args.dbias);
  }
  const long chunks, most_rows, dh_row, norm_row;
  const bool in_place;  // dy can be multiplied where it is, without a change
  const Scratch<Word> weights;
  const Scratch<Operand> dh;
  const Scratch<Scalar> normed;  // a chunk's x and dx, with a norm
  const Scratch<float> norm_scratch, norm_sums, dbias;
};

// The backward pass of the norm in front of a chunk, from dx, the gradient of the norm's output, which is recomputed
// into x.
RYOT_INLINE void dense_backward_norm(const NormArgs& args, const DenseBackwardScratch& scratch, const Chunk& chunk,
                                     long worker, Scalar* x, Scalar* dx) {
  const long K = args.width, row0 = chunk.row0, norm_row = scratch.norm_row;
  float* const sums = scratch.norm_sums.get() + chunk.index * 2 * norm_row;
  for (long d = 0; d < 2 * norm_row; d += kLanes) store(sums + d, Vector{});
  const NormScratch scratch_rows(scratch.norm_scratch.get() + worker * 2 * norm_row, sums, K);
  const NormArgs norm_args = args;
  for (long i = 0; i < chunk.rows; ++i) {
    norm_backward_row(norm_args, row0 + i, Tensor{dx, kScalarIsBfloat16}, i, scratch_rows);
    Scalar* const x_row = x + i * K;
    each_vector(K, [=](long d, long valid) RYOT_ALWAYS_INLINE {
      store_some(x_row + d, valid, scale_and_shift(norm_args, d, valid, load(scratch_rows.normed + d)));
    });
  }
}

// Writes dx of a chunk and packs its x and dh, with room for `steps` words per column in `left` and `right`; `next` is
// the worker's next chunk, without rows if it is not known.
static void dense_backward_chunk(const DenseArgs& args, const DenseBackwardScratch& scratch, const Chunk& chunk,
                                 const Chunk& next, long worker, Word* left, Word* right, long steps) {
  const long K = args.inputs, M = args.outputs, row0 = chunk.row0, rows = chunk.rows, dh_row = scratch.dh_row;
  Operand* const dh_of_worker = scratch.dh.get() + worker * scratch.most_rows * dh_row;
  if (!scratch.in_place) {
    for (long i = 0; M < dh_row && i < rows; ++i) dh_of_worker[i * dh_row + M] = Operand{};
    dense_dh(args, row0, rows, dh_of_worker, dh_row);
  }
  const Operand* dh = scratch.in_place ? static_cast<const Operand*>(args.y.data) + row0 * M : dh_of_worker;
  Scalar* const x_of_worker = args.norm ? scratch.normed.get() + worker * 2 * scratch.most_rows * K : nullptr;
  Scalar* const dx = args.norm ? x_of_worker + scratch.most_rows * K : static_cast<Scalar*>(args.dx) + row0 * K;
  const Scalar* const x = args.norm ? x_of_worker : static_cast<const Scalar*>(args.x) + row0 * K;
  const Scalar* const x_slopes = args.x_slopes ? static_cast<const Scalar*>(args.x_slopes) + row0 * K : nullptr;
  Prefetcher prefetcher(rows * divide_up(K, kPanel));
  with_type(args.y, [&](const auto* dy) {
    prefetcher.add(dy + next.row0 * args.width(), next.rows * args.width() * sizeof *dy);
  });
  if (args.slopes)
    prefetcher.add(static_cast<const Scalar*>(args.slopes) + next.row0 * M, next.rows * M * sizeof(Scalar));
  Prefetcher* const ahead = &prefetcher;
  const NormArgs* const norm = args.norm;
  multiply(rows, K, words(M), left_rows_in_place(dh, dh_row), Right{scratch.weights.get(), words(M)},
           [=](long m, long n, Vector sum, long valid) RYOT_ALWAYS_INLINE {
             const long i = m * K + n;
             store_some(dx + i, valid, x_slopes ? sum * load_some(x_slopes + i, valid) : sum);
           },
           [=](long m, long n) RYOT_ALWAYS_INLINE {
             ahead->advance();
             const long i = (row0 + m) * K + n;
             if (norm) {
               with_type(norm->s, [=](const auto* s) { prefetch_panel<false>(s + i); });
               if (norm->ds) with_type(norm->ds, [=](const auto* ds) { prefetch_panel<false>(ds + i); });
               with_type(norm->dx, [=](const auto* dx) { prefetch_panel<true>(dx + i); });
               return;
             }
             if (x_slopes) prefetch_panel<false>(x_slopes + m * K + n);
             prefetch_panel<true>(dx + m * K + n);
             prefetch_panel<false>(x + m * K + n);
           });
  if (norm) dense_backward_norm(*norm, scratch, chunk, worker, x_of_worker, dx);
  pack_left(x, K, rows, K, left, steps);
  pack_right(dh, dh_row, rows, M, right, steps);
  if (args.dbias) sum_columns(Right{right, steps}, words(rows), M, scratch.dbias.get() + chunk.index * M);
}

static bool worth_groups(const DenseArgs& args, long workers) {
  const long K = args.inputs, M = args.outputs;
  return workers <= kFewWorkers && args.rows >= kRowGroups * kDenseRows &&
         K * M * static_cast<long>(sizeof(float)) + kGroupRows * (K + M) * static_cast<long>(sizeof(Operand)) <=
             block_sizes().group_bytes;
}

static Status dense_backward_in_groups(const Parallel& parallel, const DenseArgs& args) {
  const long N = args.rows, K = args.inputs, M = args.outputs, workers = parallel.num_workers();
  const long group_rows = larger(kTileRows, round_up(divide_up(N, kRowGroups), kTileRows));
  const long groups = divide_up(N, group_rows), chunks_of_group = divide_up(group_rows, kGroupRows);
  const DenseBackwardScratch scratch(args, workers, groups * chunks_of_group, kGroupRows);
  constexpr long steps = kGroupRows / kGroup;
  const Scratch<Word> left(workers * left_words(kGroupRows, K)), right(workers * packed_words(kGroupRows, M));
  const long sums_row = scratch_row(M);
  const Scratch<float> sums(groups * K * sums_row);
  if (!scratch.complete() || !left.get() || !right.get() || !sums.get()) return Status::kNoMemory;

  const auto group_tasks = tasks(groups, [&](long group, long, long worker) {
    const auto chunk = [=](long i) {
      const long row0 = group * group_rows + i * kGroupRows;
      const long end = smaller(N, smaller((group + 1) * group_rows, row0 + kGroupRows));
      return Chunk{row0, larger(0, end - row0), group * chunks_of_group + i};
    };
    Word* const left_of_worker = left.get() + worker * left_words(kGroupRows, K);
    Word* const right_of_worker = right.get() + worker * packed_words(kGroupRows, M);
    float* const sums_of_group = sums.get() + group * K * sums_row;
    for (long i = 0; i < chunks_of_group; ++i) {
      const Chunk now = chunk(i), next = i + 1 < chunks_of_group ? chunk(i + 1) : Chunk{};
      dense_backward_chunk(args, scratch, now, next, worker, left_of_worker, right_of_worker, steps);
      for (long m0 = 0; m0 < K; m0 += kLeftBlock) {
        float* const out = sums_of_group + m0 * sums_row;
        multiply(smaller(kLeftBlock, K - m0), M, words(now.rows),
                 left_block(left_of_worker, steps, m0 / kLeftBlock, 0), Right{right_of_worker, steps},
                 [=](long m, long n, Vector sum, long) RYOT_ALWAYS_INLINE {
                   float* p = out + m * sums_row + n;
                   store(p, i > 0 ? load(p) + sum : sum);
                 },
                 [=](long m, long n) RYOT_ALWAYS_INLINE {
                   prefetch_panel<true>(out + m * sums_row + n);
                 });
      }
    }
  });
  const auto adding_up = tasks(K, [&](long k, long, long) {
    sum_rows(sums.get() + k * sums_row, groups, K * sums_row, M, args.dw + k * M);
  });
  run(parallel, packing_weights(args.w, true, M, K, scratch.weights.get()), group_tasks, adding_up);
  scratch.add_up(args);
  return Status::kDone;
}

static Status dense_backward(const Parallel& parallel, const DenseArgs& args) {
  const long N = args.rows, K = args.inputs, M = args.outputs, workers = parallel.num_workers();
  if (worth_groups(args, workers)) return dense_backward_in_groups(parallel, args);
  const long pass_rows = smaller(kPassRows, round_up(larger(N, 1), kDenseRows)), steps = pass_rows / kGroup;
  const long chunks = divide_up(N, kDenseRows);
  const DenseBackwardScratch scratch(args, workers, chunks, kDenseRows);
  const Scratch<Word> left(left_words(pass_rows, K)), right(packed_words(pass_rows, M));
  if (!scratch.complete() || !left.get() || !right.get()) return Status::kNoMemory;

  for (long pass0 = 0; pass0 < larger(N, 1); pass0 += pass_rows) {
    const long pass_end = smaller(N, pass0 + pass_rows);
    auto packing = packing_weights(args.w, true, M, K, scratch.weights.get());
    if (pass0 > 0) packing.count = 0;
    const auto chunks_of_pass = tasks(divide_up(pass_end - pass0, kDenseRows), [&](long task, long next, long worker) {
      const auto chunk = [=](long i) {
        const long row0 = pass0 + i * kDenseRows;
        return Chunk{row0, smaller(kDenseRows, pass_end - row0), row0 / kDenseRows};
      };
      const long step0 = task * kDenseRows / kGroup;
      dense_backward_chunk(args, scratch, chunk(task), next >= 0 ? chunk(next) : Chunk{}, worker,
                           left_step(left.get(), step0), right_step(right.get(), step0), steps);
    });
    // The last pass may have fewer rows than there is room for: only existing rows are summed.
    run(parallel, packing, chunks_of_pass,
        weight_gradient(workers, K, M, steps, words(pass_end - pass0), left.get(), right.get(), args.dw, pass0 > 0));
  }
  scratch.add_up(args);
  return Status::kDone;
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_OPS_DENSE_BACKWARD_H_
