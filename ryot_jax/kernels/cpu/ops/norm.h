// Layer and root-mean-square norms with a residual, one row at a time, computed in float32.
#ifndef RYOT_KERNELS_CPU_OPS_NORM_H_
#define RYOT_KERNELS_CPU_OPS_NORM_H_

#include "../core/functions.h"
#include "../core/loops.h"
#include "../core/rows.h"
#include "../core/scratch.h"

namespace ryot {
namespace {

constexpr long kNormRows = 64;  // rows of a task

RYOT_INLINE long norm_chunk_rows(long rows) {
  constexpr long kMostChunks = 256;  // bounds the memory of the partial sums
  return larger(kNormRows, divide_up(rows, kMostChunks));
}

// Computes and stores the statistics of a row, from its values s[0, width) and zeros up to the next whole vector.
RYOT_INLINE void take_statistics(const NormArgs& args, long row, const float* s) {
  const long D = args.width;
  Vector sum = Vector{};
  each_vector(D, [&](long d, long) RYOT_ALWAYS_INLINE { sum += load(s + d); });
  const float mean = args.centre ? horizontal_sum(sum) / D : 0.0f;
  Vector squares = Vector{};
  each_vector(D, [&](long d, long valid) RYOT_ALWAYS_INLINE {
    const Vector centred = load_some(s + d, valid, mean) - mean;
    squares += centred * centred;
  });
  args.statistics[2 * row] = mean;
  args.statistics[2 * row + 1] = 1.0f / __builtin_sqrtf(horizontal_sum(squares) / D + args.epsilon);
}

// The vector of y at d, of which `valid` elements exist, from the vector of normed(s).
RYOT_INLINE Vector scale_and_shift(const NormArgs& args, long d, long valid, Vector normed) {
  const Vector y = normed * load_some(args.scale + d, valid);
  return args.bias ? y + load_some(args.bias + d, valid) : y;
}

static Status norm_forward(const Parallel& parallel, const NormArgs& args) {
  const long N = args.rows, D = args.width, chunk_rows = norm_chunk_rows(N);
  const Scratch<float> scratch(parallel.num_workers() * round_up(D, kLanes));
  if (!scratch.get()) return Status::kNoMemory;
  const auto row_chunks = tasks(divide_up(N, chunk_rows), [&](long chunk, long, long worker) {
    float* const s = scratch.get() + worker * round_up(D, kLanes);
    const NormArgs norm = args;
    for (long row = chunk * chunk_rows; row < smaller(N, (chunk + 1) * chunk_rows); ++row) {
      load_row(norm.x, row, D, [=](long d, Vector x) RYOT_ALWAYS_INLINE { store(s + d, x); });
      if (norm.residual)
        load_row(norm.residual, row, D,
                 [=](long d, Vector x) RYOT_ALWAYS_INLINE { store(s + d, load(s + d) + x); });
      if (norm.s) {
        store_row(norm.s, row, D, [=](long d, long) RYOT_ALWAYS_INLINE { return load(s + d); });
        if (norm.s.is_bfloat16)  // continue with the rounded value
          load_row(norm.s, row, D, [=](long d, Vector x) RYOT_ALWAYS_INLINE { store(s + d, x); });
      }
      take_statistics(norm, row, s);
      const float mean = norm.statistics[2 * row], inverse = norm.statistics[2 * row + 1];
      store_row(norm.y, row, D, [=](long d, long valid) RYOT_ALWAYS_INLINE {
        return scale_and_shift(norm, d, valid, (load(s + d) - mean) * inverse);
      });
    }
  });
  run(parallel, row_chunks);
  return Status::kDone;
}

// A thread's scratch for the gradients of rows, and the sums of a chunk of rows; both [2][row_size] floats.
struct NormScratch {
  static long row_size(long width) { return round_up(width, kLanes); }
  NormScratch(float* scratch, float* sums, long width)
      : normed(scratch), g(scratch + row_size(width)), dscale(sums), dbias(sums + row_size(width)) {}
  float *normed, *g, *dscale, *dbias;
};

// Writes one row of dx and adds to the sums, from row dy_row of dy. With n = (s - mean) * inverse and g = dy * scale:
// dx = ds + inverse * (g - mean(g) - n * mean(g * n)), where mean(g) is omitted without centring;
// dscale = sum(dy * n), dbias = sum(dy). Leaves n in scratch.normed.
RYOT_INLINE void norm_backward_row(const NormArgs& args, long row, const Tensor& dy, long dy_row,
                                   const NormScratch scratch) {
  const long D = args.width;
  const float mean = args.statistics[2 * row], inverse = args.statistics[2 * row + 1];
  const float* const scale = args.scale;
  float *const n = scratch.normed, *const g = scratch.g, *const dscale = scratch.dscale, *const dbias = scratch.dbias;
  load_row(args.s, row, D,
           [=](long d, Vector s) RYOT_ALWAYS_INLINE { store(n + d, (s - mean) * inverse); });
  load_row(dy, dy_row, D, [=](long d, Vector dy) RYOT_ALWAYS_INLINE { store(g + d, dy); });
  Vector sum_g = Vector{}, sum_gn = Vector{};
  each_vector(D, [&](long d, long valid) RYOT_ALWAYS_INLINE {
    const Vector dy = load(g + d);  // zeros beyond its end, as the other factor is undefined there
    const Vector normed = valid < kLanes ? load_partial(n + d, valid, 0.0f) : load(n + d);
    store(dscale + d, load(dscale + d) + dy * normed);
    store(dbias + d, load(dbias + d) + dy);
    const Vector scaled = dy * load_some(scale + d, valid);
    store(g + d, scaled);
    sum_g += scaled;
    sum_gn += scaled * normed;
  });
  const float mean_g = args.centre ? horizontal_sum(sum_g) / D : 0.0f, mean_gn = horizontal_sum(sum_gn) / D;
  if (args.ds) load_row(args.ds, row, D, [=](long d, Vector ds) RYOT_ALWAYS_INLINE {
      store(g + d, inverse * (load(g + d) - mean_g - load(n + d) * mean_gn) + ds);
    });
  else each_vector(D, [=](long d, long) RYOT_ALWAYS_INLINE {
      store(g + d, inverse * (load(g + d) - mean_g - load(n + d) * mean_gn));
    });
  store_row(args.dx, row, D, [=](long d, long) RYOT_ALWAYS_INLINE { return load(g + d); });
}

// Adds up the partial sums of all chunks.
static void sum_norm_chunks(const NormArgs& args, const float* sums, long chunks) {
  const long D = args.width, row_size = NormScratch::row_size(D);
  sum_rows(sums, chunks, 2 * row_size, D, args.dscale);
  if (args.dbias) sum_rows(sums + row_size, chunks, 2 * row_size, D, args.dbias);
}

static Status norm_backward(const Parallel& parallel, const NormArgs& args) {
  const long N = args.rows, D = args.width, chunk_rows = norm_chunk_rows(N), chunks = divide_up(N, chunk_rows);
  const long row_size = NormScratch::row_size(D);
  const Scratch<float> sums(larger(chunks, 1) * 2 * row_size);
  const Scratch<float> scratch(parallel.num_workers() * 2 * row_size);
  if (!sums.get() || !scratch.get()) return Status::kNoMemory;
  const auto row_chunks = tasks(chunks, [&](long chunk, long, long worker) {
    float* const sums_of_chunk = sums.get() + chunk * 2 * row_size;
    for (long d = 0; d < 2 * row_size; d += kLanes) store(sums_of_chunk + d, Vector{});
    const NormArgs norm = args;
    const NormScratch rows_of_worker(scratch.get() + worker * 2 * row_size, sums_of_chunk, D);
    for (long row = chunk * chunk_rows; row < smaller(N, (chunk + 1) * chunk_rows); ++row)
      norm_backward_row(norm, row, norm.y, row, rows_of_worker);
  });
  run(parallel, row_chunks);
  sum_norm_chunks(args, sums.get(), chunks);
  return Status::kDone;
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_OPS_NORM_H_
