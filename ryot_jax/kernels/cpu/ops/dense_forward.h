// Forward pass of a dense layer, y = act(x w + bias) + residual.
//
// Chunks of kDenseRows rows, one per task, are multiplied by the packed weights; bias, activation and residual are
// applied while a tile is in registers, and the activation's derivatives, its slopes, are kept. With a norm in front a
// chunk begins with the norm of its rows, which stays in the second-level cache: the norm's output never goes to
// memory.
#ifndef RYOT_KERNELS_CPU_OPS_DENSE_FORWARD_H_
#define RYOT_KERNELS_CPU_OPS_DENSE_FORWARD_H_

#include "../core/prefetch.h"
#include "../core/weights.h"
#include "norm.h"

namespace ryot {
namespace {

constexpr long kDenseRows = 8 * kTileRows;  // rows of a chunk
static_assert(kDenseRows % (kGroup * kLeftSteps) == 0, "chunks hold whole words and steps");

// Computes the norm of rows as a left operand; `s` has room for one row, `out` for all.
RYOT_INLINE LeftRows normed_rows(const NormArgs& args, long row0, long rows, float* s, Word* out) {
  const long K = args.width, row_words = words(K);
  for (long i = 0; i < rows; ++i) {
    load_row(args.s, row0 + i, K, [=](long d, Vector x) RYOT_ALWAYS_INLINE { store(s + d, x); });
    take_statistics(args, row0 + i, s);
    const float mean = args.statistics[2 * (row0 + i)], inverse = args.statistics[2 * (row0 + i) + 1];
    Operand* const y = reinterpret_cast<Operand*>(out + i * row_words);
    if (K % kGroup) y[K] = Operand{};
    each_vector(K, [=](long d, long valid) RYOT_ALWAYS_INLINE {
      store_some(y + d, valid, scale_and_shift(args, d, valid, (load(s + d) - mean) * inverse));
    });
  }
  return left_rows_in_place(reinterpret_cast<const Operand*>(out), row_words * kGroup);
}

// State shared by the chunks of one call.
struct DenseForward {
  const DenseArgs& args;
  Right weights;
  Word* copies;  // [workers][kDenseRows][words of the inputs], if x cannot be multiplied in place
  float* rows;   // [workers][inputs, whole vectors], with a norm
};

// The rows of a chunk as a left operand.
RYOT_INLINE LeftRows dense_left(const DenseForward& call, long row0, long rows, long worker) {
  const DenseArgs& args = call.args;
  const long K = args.inputs;
  Word* const copy = call.copies + worker * kDenseRows * words(K);
  if (!args.norm) return left_rows(static_cast<const Scalar*>(args.x) + row0 * K, K, rows, K, copy);
  return normed_rows(*args.norm, row0, rows, call.rows + worker * round_up(K, kLanes), copy);
}

// Applies swiglu to rows whose gates and values are in `slopes`, which become the derivatives.
template <typename Finish>
RYOT_INLINE void dense_swiglu(const DenseArgs& args, long row0, long rows, const Finish finish) {
  const long M = args.outputs, width = args.width();
  Scalar* const slopes = static_cast<Scalar*>(args.slopes);
  for (long row = row0; row < row0 + rows; ++row)
    for (long f = 0; f < width; f += kLanes) {
      const long valid = width - f;
      Scalar *gate_p = slopes + row * M + f, *value_p = gate_p + width;
      const Vector gate = load_some(gate_p, valid), value = load_some(value_p, valid);
      const Vector s = sigmoid(gate), silu = gate * s;
      store_some(gate_p, valid, value * (s + silu * (1.0f - s)));
      store_some(value_p, valid, silu);
      finish(row * width + f, silu * value, valid);
    }
}

// Multiplies through `product(epilogue)`, whose epilogue takes a position in [rows, outputs], and applies the
// activation and the residual.
template <typename Product>
RYOT_INLINE void dense_activate(const DenseArgs& args, long row0, long rows, const Product& product) {
  const Tensor residual = args.residual, y = args.y;
  Scalar *slopes = static_cast<Scalar*>(args.slopes), *scalar_y = static_cast<Scalar*>(args.y.data);
  const auto finish = [=](long i, Vector value, long valid) RYOT_ALWAYS_INLINE {
    store_some(y, i, valid, residual ? value + load_some(residual, i, valid) : value);
  };
  switch (args.activation) {
    case Activation::kNone:
      if (residual || y.is_bfloat16 != kScalarIsBfloat16) {
        product(finish);
      } else {
        product([=](long i, Vector v, long valid) RYOT_ALWAYS_INLINE { store_some(scalar_y + i, valid, v); });
      }
      break;
    case Activation::kGelu:
      product([=](long i, Vector v, long valid) RYOT_ALWAYS_INLINE {
        const Activated y = gelu(v);
        store_some(slopes + i, valid, y.slope);
        finish(i, y.value, valid);
      });
      break;
    case Activation::kRelu2:
      product([=](long i, Vector v, long valid) RYOT_ALWAYS_INLINE {
        store_some(slopes + i, valid, 2.0f * relu(v));
        finish(i, relu(v) * relu(v), valid);
      });
      break;
    case Activation::kSwiglu:
      product([=](long i, Vector v, long valid) RYOT_ALWAYS_INLINE { store_some(slopes + i, valid, v); });
      dense_swiglu(args, row0, rows, finish);
  }
}

static void dense_forward_chunk(const DenseForward& call, long chunk, long next, long worker) {
  const DenseArgs& args = call.args;
  const long N = args.rows, K = args.inputs, M = args.outputs, width = args.width();
  const long row0 = chunk * kDenseRows, rows = smaller(kDenseRows, N - row0);
  const LeftRows x = dense_left(call, row0, rows, worker);
  Prefetcher prefetcher(rows * divide_up(M, kPanel));
  const Tensor all_x = args.norm ? args.norm->s : Tensor{const_cast<void*>(args.x), kScalarIsBfloat16};
  if (next >= 0)
    with_type(all_x, [&](const auto* x) {
      prefetcher.add(x + next * kDenseRows * K, smaller(kDenseRows, N - next * kDenseRows) * K * sizeof *x);
    });
  Prefetcher* const ahead = &prefetcher;
  const float* bias = args.bias;
  const Tensor residual = args.residual, y = args.y;
  Scalar* const slopes = static_cast<Scalar*>(args.slopes);
  const Right weights = call.weights;
  dense_activate(args, row0, rows, [&](auto epilogue) RYOT_ALWAYS_INLINE {
    multiply(rows, M, words(K), x, weights,
             [=](long m, long n, Vector sum, long valid) RYOT_ALWAYS_INLINE {
               epilogue((row0 + m) * M + n, bias ? sum + load_some(bias + n, valid) : sum, valid);
             },
             [=](long m, long n) RYOT_ALWAYS_INLINE {
               const long i = (row0 + m) * M + n;
               ahead->advance();
               if (residual) with_type(residual, [=](const auto* p) { prefetch_panel<false>(p + i); });
               if (slopes) prefetch_panel<true>(slopes + i);
               if (width == M) with_type(y, [=](const auto* p) { prefetch_panel<true>(p + i); });
             });
  });
}

static Status dense_forward(const Parallel& parallel, const DenseArgs& args) {
  const long N = args.rows, K = args.inputs, M = args.outputs;
  const Scratch<Word> weights(packed_words(K, M));
  const Scratch<Word> copies(parallel.num_workers() * kDenseRows * words(K));
  const Scratch<float> row_of_worker(args.norm ? parallel.num_workers() * round_up(K, kLanes) : 1);
  if (!weights.get() || !copies.get() || !row_of_worker.get()) return Status::kNoMemory;
  const DenseForward call = {args, {weights.get(), words(K)}, copies.get(), row_of_worker.get()};
  const auto chunks = tasks(divide_up(N, kDenseRows), [&](long chunk, long next, long worker) {
    dense_forward_chunk(call, chunk, next, worker);
  });
  run(parallel, packing_weights(args.w, false, K, M, weights.get()), chunks);
  return Status::kDone;
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_OPS_DENSE_FORWARD_H_
