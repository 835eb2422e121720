// The table of kernels that each target provides, and their arguments.
//
// All arrays are dense and row-major. "Scalar" is the type of the arrays between a target's kernels, float or bfloat16;
// sums are float32 in both. A `Tensor` may hold either type if bfloat16 is the Scalar. Results do not depend on the
// assignment of work to threads: the order of every sum is fixed by the shapes and, for gradients of small weights, by
// whether there are more than 4 threads, and for that of a vocabulary of more than 11,000 tokens by their number.
#ifndef RYOT_KERNELS_CPU_CORE_KERNELS_H_
#define RYOT_KERNELS_CPU_CORE_KERNELS_H_

#include <cstdint>

#include "parallel.h"
#include "status.h"

namespace ryot {

// An array of float32 or bfloat16; data is null if the array is absent.
struct Tensor {
  void* data;
  bool is_bfloat16;
  explicit operator bool() const { return data != nullptr; }
};

// The numbers are those of the `activation` attribute of the handlers.
enum class Activation : int64_t { kNone = 0, kGelu = 1, kRelu2 = 2, kSwiglu = 3 };

// s = x + residual; y = (s - mean(s)) / deviation(s) * scale + bias, row by row. Without `centre` the mean is not
// subtracted and the deviation is the root mean square.
struct NormArgs {
  long rows, width;
  bool centre;
  float epsilon;
  Tensor x, residual;  // forward: read; the residual may be absent
  const float* scale;  // [width]
  const float* bias;   // [width] or null
  Tensor y;            // forward: written; backward: the gradient dy, read
  Tensor s;            // forward: written, or absent; backward: read
  float* statistics;   // [rows, 2]: mean and 1 / deviation. Forward: written; backward: read
  Tensor ds;           // backward only, like the next three: gradient of another use of s, or absent
  Tensor dx;           // [rows, width], type of s; may overwrite s or ds
  float* dscale;       // [width]
  float* dbias;        // [width] or null
};

// y = act(x w + bias) + residual. `outputs` is the width of w; y is half as wide where the activation is gated.
// With a norm, x is the norm's y, which is never stored: s, scale, bias, statistics, ds and the gradients of `norm` are
// used, and dx is the gradient of s.
struct DenseArgs {
  long rows, inputs, outputs;
  Activation activation;
  const NormArgs* norm;  // or null
  const void* x;         // Scalar [rows, inputs]; not with a norm
  const float* w;        // [inputs, outputs]
  const float* bias;     // [outputs] or null
  Tensor residual;       // [rows, width of y] or absent; forward only
  Tensor y;              // forward: written; backward: the gradient dy, read
  void* slopes;          // Scalar [rows, outputs], dy / d(x w + bias); null without activation. Forward: written;
                         // backward: read
  const void* x_slopes;  // backward only, like the next three: Scalar [rows, inputs], factors of dx (the slopes of the
                         // layer that produced x; dx may overwrite them), or null; not with a norm
  void* dx;              // Scalar [rows, inputs]; not with a norm
  float* dw;             // [inputs, outputs]
  float* dbias;          // [outputs] or null
  long width() const { return activation == Activation::kSwiglu ? outputs / 2 : outputs; }
};

// One head's vectors of all positions: position t of sequence b and head h is at data + (b * positions + t) * row +
// h * head_width.
struct Heads {
  void* data;  // Scalar
  long row;    // scalars from one position to the next
};

// softmax(q k^T / sqrt(head_width)) v for every sequence and head; query head h uses key head h / (heads / kv_heads).
struct AttentionArgs {
  long batch, queries, keys, heads, kv_heads, head_width;
  bool causal;           // whether a query sees keys only up to its own position
  long window;           // and only the last `window` of those; 0: all
  const uint8_t* mask;   // [batch, keys], 0: no query sees the key; or null
  Heads q, k, v, o;      // o: forward: written; backward: read
  float* log_sum_exp;    // [batch, heads, queries], +inf for a query that sees no key. Forward: written; backward: read
  Heads d_o, dq, dk, dv; // backward only
};

// losses[n] = lse - (1 - e) logit[target] - e mean(logit) + z lse^2, where e is the label smoothing, z the z-loss,
// logit[v] = cap(x[n] . w[v]), cap(l) = c tanh(l / c), lse = log(sum(exp(logit))); and the gradients of
// sum(weights * losses). Rows with a negative target are ignored.
struct LinearCrossEntropyArgs {
  long rows, width, vocabulary;
  float label_smoothing, z_loss, soft_cap;  // soft_cap 0: none
  const void* x;                            // Scalar [rows, width]
  const float* w;                           // [vocabulary, width]
  const int32_t* target;                    // [rows]
  const float* weights;                     // [rows] or null: all one
  float* losses;                            // [rows]
  void* dx;                                 // Scalar [rows, width], or null: no gradients are requested
  float* dw;                                // [vocabulary, width]
};

// dtable[tokens[n]] += dy[n]; tokens outside the vocabulary are skipped.
struct EmbeddingArgs {
  long rows, width, vocabulary;
  Tensor dy;              // [rows, width]
  const int32_t* tokens;  // [rows]
  float* dtable;          // [vocabulary, width]
};

// One leaf of the parameters, all arrays float32[size]; the new arrays may be the old ones.
struct AdamWLeaf {
  long size;
  float decay;  // weight decay, before it is multiplied by the rate
  const float *parameter, *gradient, *first_moment, *second_moment;
  float *new_parameter, *new_first_moment, *new_second_moment;
};

// g = gradient * gradient_scale, scaled down to a global norm of clip_norm if that is above 0 and smaller;
// m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
// p -= rate (first_correction m / (sqrt(second_correction v) + epsilon) + decay p).
struct AdamWArgs {
  const AdamWLeaf* leaves;
  long num_leaves;
  float gradient_scale, clip_norm, rate, b1, b2, epsilon, first_correction, second_correction;
  float* norm;  // [1], of all gradients times gradient_scale, before clipping
};

// The weights of one layer of a pre-norm transformer; matrices packed by `pack_weights`, absent biases null.
struct DecodeLayer {
  const float *attention_scale, *attention_bias;  // [width]
  const uint32_t* qkv;                            // width to 3 width: queries, keys, values, each in order of heads
  const float* qkv_bias;
  const uint32_t* out;  // width to width
  const float* out_bias;
  const float *mlp_scale, *mlp_bias;
  const uint32_t* up;  // width to hidden, or to gate and value of it
  const float* up_bias;
  const uint32_t* down;  // hidden to width
  const float* down_bias;
};

// Each sequence has counts[b] new tokens, which follow the lengths[b] positions in its cache: their keys and values are
// added to the cache, and the next token's logits are computed for each of them, or for the last of each sequence.
struct DecodeArgs {
  long batch, steps, num_layers, width, heads, hidden, vocabulary, capacity;
  bool centre, last_only;
  float epsilon;
  Activation activation;    // of the MLP; not kNone
  const int32_t* tokens;    // [batch, steps]
  const int32_t* lengths;   // [batch]
  const int32_t* counts;    // [batch], at most `steps`
  uint32_t* keys;           // words of the head's width [layers, batch, heads, .., capacity], which is whole vectors
  uint32_t* values;         // words of the positions [layers, batch, heads, .., head_width]
  const float* table;       // [vocabulary, width]
  const float* positions;   // [capacity or more, width], added; or null
  const float* rotations;   // [capacity or more, head_width], cosines and sines of half the head's pairs; or null
  const DecodeLayer* layers;
  const float *final_scale, *final_bias;
  const uint32_t* head;     // width to vocabulary
  int32_t* best;            // [batch, steps or 1], the token of the largest logit; only for tokens within the count
  float* logits;            // [batch, steps or 1, vocabulary], like `best`; or null
};

// packed = w[inputs, outputs], or the transpose of w[outputs, inputs], as panels: see core/panels.h.
struct PackArgs {
  long inputs, outputs;
  bool transposed;
  const float* w;
  uint32_t* packed;
};

// All kernels, as (name, arguments): the fields of a target's table, which is filled in by these names.
#define RYOT_FOR_EACH_KERNEL(X)                        \
  X(dense_forward, DenseArgs)                          \
  X(dense_backward, DenseArgs)                         \
  X(norm_forward, NormArgs)                            \
  X(norm_backward, NormArgs)                           \
  X(attention_forward, AttentionArgs)                  \
  X(attention_backward, AttentionArgs)                 \
  X(linear_cross_entropy, LinearCrossEntropyArgs)      \
  X(embedding_backward, EmbeddingArgs)                 \
  X(adamw, AdamWArgs)                                  \
  X(decode_step, DecodeArgs)                           \
  X(pack_weights, PackArgs)

struct Kernels {
#define RYOT_FIELD(name, Args) Status (*name)(const Parallel&, const Args&);
  RYOT_FOR_EACH_KERNEL(RYOT_FIELD)
#undef RYOT_FIELD
};

}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_KERNELS_H_
