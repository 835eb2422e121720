// XLA FFI handlers: check types and shapes, take XLA's own thread pool, and call the kernels of the best instruction
// set that this processor has. An operand or result of shape [0] is absent.
#include <algorithm>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "dispatch.h"
#include "pool.h"
#include "speculation.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
namespace ryot {
namespace {

using ffi::AnyBuffer;
using Floats = ffi::Buffer<ffi::F32>;
using Integers = ffi::Buffer<ffi::S32>;
using Booleans = ffi::Buffer<ffi::PRED>;
using AnyOut = ffi::Result<AnyBuffer>;
using FloatsOut = ffi::Result<Floats>;
using IntegersOut = ffi::Result<Integers>;
using Shape = std::initializer_list<long>;

// ---- Checks -----------------------------------------------------------------------------------------------------

template <typename Buffer>
bool absent(const Buffer& buffer) {
  return buffer.dimensions().size() == 1 && buffer.dimensions()[0] == 0;
}

// Collects what is wrong with a call: the first finding is the error.
class Check {
 public:
  explicit Check(const char* kernel) : kernel_(kernel) {}

  void require(bool condition, const char* rule) {
    if (!condition && error_.empty()) error_ = std::string("ryot_jax: ") + kernel_ + " takes " + rule;
  }
  template <typename Buffer>
  void shape(const Buffer& buffer, Shape wanted, const char* rule) {
    const auto dims = buffer.dimensions();
    bool same = dims.size() == wanted.size();
    for (size_t i = 0; same && i < wanted.size(); ++i) same = dims[i] == wanted.begin()[i];
    require(same, rule);
  }
  template <typename Buffer>
  void shape_or_absent(const Buffer& buffer, Shape wanted, const char* rule) {
    if (!absent(buffer)) shape(buffer, wanted, rule);
  }
  // Float32, or bfloat16 where the Scalar is.
  void number(const AnyBuffer& buffer, ffi::DataType scalar) {
    const ffi::DataType type = buffer.element_type();
    require(absent(buffer) || type == ffi::F32 || (type == ffi::BF16 && scalar == ffi::BF16), "float32 or bfloat16");
  }
  bool ok() const { return error_.empty(); }
  ffi::Error error() const { return ffi::Error::InvalidArgument(error_); }

 private:
  const char* kernel_;
  std::string error_;
};

Tensor tensor(const AnyBuffer& buffer) {
  return {absent(buffer) ? nullptr : buffer.untyped_data(), buffer.element_type() == ffi::BF16};
}
float* data_or_null(const Floats& buffer) { return absent(buffer) ? nullptr : buffer.typed_data(); }

// Runs one kernel of the table for `scalar`.
template <typename Args>
ffi::Error launch(ffi::ThreadPool& pool, ffi::DataType scalar, const Check& check,
                  bool (*Kernels::*kernel)(const Parallel&, const Args&), const Args& args) {
  if (!check.ok()) return check.error();
  if (scalar != ffi::F32 && scalar != ffi::BF16)
    return ffi::Error::InvalidArgument("ryot_jax: the CPU kernels take float32 or bfloat16");
  const Kernels* kernels = best_kernels(scalar == ffi::BF16);
  if (!kernels)
    return ffi::Error(ffi::ErrorCode::kUnimplemented,
                      scalar == ffi::BF16 ? "ryot_jax: bfloat16 kernels need a processor with AVX512-BF16"
                                          : "ryot_jax: the CPU kernels need a processor with AVX2 and FMA");
  if (!(kernels->*kernel)(PoolParallel<ffi::ThreadPool>(pool), args))
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "ryot_jax: no memory for scratch");
  return ffi::Error::Success();
}

bool has_rank(const AnyBuffer& buffer, size_t rank) { return buffer.dimensions().size() == rank; }

// ---- Dense ------------------------------------------------------------------------------------------------------

ffi::Error check_dense(Check& check, const AnyBuffer& x, const Floats& w, int64_t activation, DenseArgs& args) {
  check.require(has_rank(x, 2) && w.dimensions().size() == 2, "x[N,K], w[K,M]");
  check.require(activation >= 0 && activation <= 3, "activation 0 to 3");
  if (!check.ok()) return check.error();
  args.rows = x.dimensions()[0], args.inputs = x.dimensions()[1], args.outputs = w.dimensions()[1];
  args.activation = static_cast<Activation>(activation);
  args.x = x.untyped_data(), args.w = w.typed_data();
  check.shape(w, {args.inputs, args.outputs}, "x[N,K], w[K,M]");
  check.require(args.activation != Activation::kSwiglu || args.outputs % 2 == 0, "an even M for swiglu");
  return ffi::Error::Success();
}

ffi::Error dense_forward(ffi::ThreadPool pool, AnyBuffer x, Floats w, Floats bias, AnyBuffer residual, AnyOut y,
                         AnyOut slopes, int64_t activation) {
  Check check("dense");
  DenseArgs args = {};
  if (ffi::Error error = check_dense(check, x, w, activation, args); error.failure()) return error;
  const ffi::DataType scalar = x.element_type();
  check.number(residual, scalar);
  check.number(*y, scalar);
  check.shape_or_absent(bias, {args.outputs}, "bias[M]");
  check.shape_or_absent(residual, {args.rows, args.width()}, "a residual of the shape of y");
  check.shape(*y, {args.rows, args.width()}, "y[N,M], half as wide for swiglu");
  if (args.activation != Activation::kNone) check.shape(*slopes, {args.rows, args.outputs}, "slopes[N,M]");
  check.require(args.activation == Activation::kNone || slopes->element_type() == scalar, "slopes of the type of x");
  args.bias = data_or_null(bias), args.residual = tensor(residual), args.y = tensor(*y);
  args.slopes = tensor(*slopes).data;
  return launch(pool, scalar, check, &Kernels::dense_forward, args);
}

ffi::Error dense_backward(ffi::ThreadPool pool, AnyBuffer dy, AnyBuffer x, Floats w, AnyBuffer slopes,
                          AnyBuffer x_slopes, AnyOut dx, FloatsOut dw, FloatsOut dbias, int64_t activation) {
  Check check("dense");
  DenseArgs args = {};
  if (ffi::Error error = check_dense(check, x, w, activation, args); error.failure()) return error;
  const ffi::DataType scalar = x.element_type();
  check.number(dy, scalar);
  check.shape(dy, {args.rows, args.width()}, "dy[N,M], half as wide for swiglu");
  if (args.activation != Activation::kNone) check.shape(slopes, {args.rows, args.outputs}, "slopes[N,M]");
  check.require(args.activation == Activation::kNone || slopes.element_type() == scalar, "slopes of the type of x");
  check.shape_or_absent(x_slopes, {args.rows, args.inputs}, "slopes of x of its shape");
  check.require(absent(x_slopes) || x_slopes.element_type() == scalar, "slopes of the type of x");
  check.shape(*dx, {args.rows, args.inputs}, "dx[N,K]");
  check.require(dx->element_type() == scalar, "dx of the type of x");
  check.shape(*dw, {args.inputs, args.outputs}, "dw[K,M]");
  check.shape_or_absent(*dbias, {args.outputs}, "dbias[M]");
  args.y = tensor(dy), args.slopes = tensor(slopes).data, args.x_slopes = tensor(x_slopes).data;
  args.dx = dx->untyped_data(), args.dw = dw->typed_data();
  args.dbias = data_or_null(*dbias);
  return launch(pool, scalar, check, &Kernels::dense_backward, args);
}

// ---- Norms ------------------------------------------------------------------------------------------------------

// Norms compute in float32 whatever the arrays hold; the kernels for bfloat16 are needed where one of them is.
ffi::DataType widest_scalar(std::initializer_list<const AnyBuffer*> buffers) {
  for (const AnyBuffer* buffer : buffers)
    if (buffer->element_type() == ffi::BF16) return ffi::BF16;
  return ffi::F32;
}

ffi::Error norm_forward(ffi::ThreadPool pool, AnyBuffer x, AnyBuffer residual, Floats scale, Floats bias, AnyOut y,
                        AnyOut s, FloatsOut statistics, float epsilon, int64_t centre) {
  Check check("norm");
  check.require(has_rank(x, 2), "x[N,D]");
  if (!check.ok()) return check.error();
  NormArgs args = {};
  args.rows = x.dimensions()[0], args.width = x.dimensions()[1];
  const ffi::DataType scalar = widest_scalar({&x, &residual, &*y, &*s});
  for (const AnyBuffer* buffer : {&x, &residual, &*y, &*s}) check.number(*buffer, scalar);
  check.shape_or_absent(residual, {args.rows, args.width}, "a residual of the shape of x");
  check.shape(scale, {args.width}, "scale[D]");
  check.shape_or_absent(bias, {args.width}, "bias[D]");
  check.shape(*y, {args.rows, args.width}, "y[N,D]");
  check.shape_or_absent(*s, {args.rows, args.width}, "s[N,D]");
  check.shape(*statistics, {args.rows, 2}, "statistics[N,2]");
  args.centre = centre != 0, args.epsilon = epsilon;
  args.x = tensor(x), args.residual = tensor(residual), args.scale = scale.typed_data(), args.bias = data_or_null(bias);
  args.y = tensor(*y), args.s = tensor(*s), args.statistics = statistics->typed_data();
  return launch(pool, scalar, check, &Kernels::norm_forward, args);
}

ffi::Error norm_backward(ffi::ThreadPool pool, AnyBuffer dy, AnyBuffer s, Floats scale, Floats statistics, AnyBuffer ds,
                         AnyOut dx, FloatsOut dscale, FloatsOut dbias, int64_t centre) {
  Check check("norm");
  check.require(has_rank(s, 2), "s[N,D]");
  if (!check.ok()) return check.error();
  NormArgs args = {};
  args.rows = s.dimensions()[0], args.width = s.dimensions()[1];
  const ffi::DataType scalar = widest_scalar({&dy, &s, &ds, &*dx});
  for (const AnyBuffer* buffer : {&dy, &s, &ds, &*dx}) check.number(*buffer, scalar);
  check.shape(dy, {args.rows, args.width}, "dy[N,D]");
  check.shape(scale, {args.width}, "scale[D]");
  check.shape(statistics, {args.rows, 2}, "statistics[N,2]");
  check.shape_or_absent(ds, {args.rows, args.width}, "ds[N,D]");
  check.shape(*dx, {args.rows, args.width}, "dx[N,D]");
  check.shape(*dscale, {args.width}, "dscale[D]");
  check.shape_or_absent(*dbias, {args.width}, "dbias[D]");
  args.centre = centre != 0;
  args.y = tensor(dy), args.s = tensor(s), args.scale = scale.typed_data(), args.statistics = statistics.typed_data();
  args.ds = tensor(ds), args.dx = tensor(*dx), args.dscale = dscale->typed_data(), args.dbias = data_or_null(*dbias);
  return launch(pool, scalar, check, &Kernels::norm_backward, args);
}

// ---- A norm with a dense layer behind it ------------------------------------------------------------------------

// `scalar` is the type that the product runs in; s may be wider.
void check_norm_dense(Check& check, const AnyBuffer& s, const Floats& scale, const Floats& statistics,
                      ffi::DataType scalar, NormArgs& norm) {
  check.number(s, scalar);
  check.require(has_rank(s, 2), "s[N,K]");
  if (!check.ok()) return;
  norm.rows = s.dimensions()[0], norm.width = s.dimensions()[1];
  check.shape(scale, {norm.width}, "scale[K]");
  check.shape(statistics, {norm.rows, 2}, "statistics[N,2]");
  norm.s = tensor(s), norm.scale = scale.typed_data(), norm.statistics = statistics.typed_data();
}

ffi::Error norm_dense_forward(ffi::ThreadPool pool, AnyBuffer s, Floats scale, Floats shift, Floats w, Floats bias,
                              AnyOut y, AnyOut slopes, FloatsOut statistics, int64_t activation, float epsilon,
                              int64_t centre) {
  Check check("norm_dense");
  const ffi::DataType scalar = y->element_type();
  NormArgs norm = {};
  DenseArgs args = {};
  if (ffi::Error error = check_dense(check, s, w, activation, args); error.failure()) return error;
  check_norm_dense(check, s, scale, *statistics, scalar, norm);
  check.shape_or_absent(shift, {args.inputs}, "shift[K]");
  check.shape_or_absent(bias, {args.outputs}, "bias[M]");
  check.shape(*y, {args.rows, args.width()}, "y[N,M], half as wide for swiglu");
  if (args.activation != Activation::kNone) check.shape(*slopes, {args.rows, args.outputs}, "slopes[N,M]");
  check.require(args.activation == Activation::kNone || slopes->element_type() == scalar, "slopes of the type of y");
  norm.bias = data_or_null(shift), norm.epsilon = epsilon, norm.centre = centre != 0;
  args.norm = &norm, args.bias = data_or_null(bias), args.y = tensor(*y), args.slopes = tensor(*slopes).data;
  return launch(pool, scalar, check, &Kernels::dense_forward, args);
}

ffi::Error norm_dense_backward(ffi::ThreadPool pool, AnyBuffer dy, AnyBuffer s, Floats scale, Floats shift,
                               Floats statistics, Floats w, AnyBuffer slopes, AnyBuffer ds, AnyOut dx,
                               FloatsOut dscale, FloatsOut dshift, FloatsOut dw, FloatsOut dbias, int64_t activation,
                               int64_t centre) {
  Check check("norm_dense");
  const ffi::DataType scalar = dy.element_type();
  NormArgs norm = {};
  DenseArgs args = {};
  if (ffi::Error error = check_dense(check, s, w, activation, args); error.failure()) return error;
  check_norm_dense(check, s, scale, statistics, scalar, norm);
  check.number(ds, scalar);
  check.shape_or_absent(shift, {args.inputs}, "shift[K]");
  check.shape(dy, {args.rows, args.width()}, "dy[N,M], half as wide for swiglu");
  if (args.activation != Activation::kNone) check.shape(slopes, {args.rows, args.outputs}, "slopes[N,M]");
  check.require(args.activation == Activation::kNone || slopes.element_type() == scalar, "slopes of the type of dy");
  check.shape_or_absent(ds, {args.rows, args.inputs}, "ds[N,K]");
  check.shape(*dx, {args.rows, args.inputs}, "dx[N,K]");
  check.require(dx->element_type() == s.element_type(), "dx of the type of s");
  check.shape(*dscale, {args.inputs}, "dscale[K]");
  check.shape_or_absent(*dshift, {args.inputs}, "dshift[K]");
  check.shape(*dw, {args.inputs, args.outputs}, "dw[K,M]");
  check.shape_or_absent(*dbias, {args.outputs}, "dbias[M]");
  norm.bias = data_or_null(shift), norm.centre = centre != 0, norm.ds = tensor(ds), norm.dx = tensor(*dx);
  norm.dscale = dscale->typed_data(), norm.dbias = data_or_null(*dshift);
  args.norm = &norm, args.y = tensor(dy), args.slopes = tensor(slopes).data;
  args.dw = dw->typed_data(), args.dbias = data_or_null(*dbias);
  return launch(pool, scalar, check, &Kernels::dense_backward, args);
}

// ---- Attention --------------------------------------------------------------------------------------------------

// All heads of an array [B,T,N,K], from head `first` on.
Heads heads_from(const AnyBuffer& buffer, long first) {
  const auto d = buffer.dimensions();
  const long scalar_bytes = buffer.element_type() == ffi::BF16 ? 2 : 4;
  return {static_cast<char*>(buffer.untyped_data()) + first * d[3] * scalar_bytes, static_cast<long>(d[2] * d[3])};
}

void check_attention(Check& check, const Booleans& mask, int64_t causal, int64_t window, AttentionArgs& args) {
  args.causal = causal != 0, args.window = window;
  args.mask = absent(mask) ? nullptr : reinterpret_cast<const uint8_t*>(mask.typed_data());
  check.shape_or_absent(mask, {args.batch, args.keys}, "mask[B,S]");
  check.require(args.kv_heads > 0 && args.heads % args.kv_heads == 0, "key heads that divide the query heads");
  check.require(window >= 0 && (!window || causal), "a window only where it is causal");
  check.require(!causal || args.queries == args.keys, "as many keys as queries where it is causal");
}

void check_separate(Check& check, const AnyBuffer& q, const AnyBuffer& k, const AnyBuffer& v, AttentionArgs& args) {
  const char* rule = "q[B,T,H,K], k[B,S,G,K], v[B,S,G,K] of one type";
  check.require(has_rank(q, 4) && has_rank(k, 4) && has_rank(v, 4), rule);
  if (!check.ok()) return;
  const auto qs = q.dimensions(), ks = k.dimensions();
  args.batch = qs[0], args.queries = qs[1], args.heads = qs[2], args.head_width = qs[3];
  args.keys = ks[1], args.kv_heads = ks[2];
  for (const AnyBuffer* buffer : {&k, &v}) {
    check.shape(*buffer, {args.batch, args.keys, args.kv_heads, args.head_width}, rule);
    check.require(buffer->element_type() == q.element_type(), rule);
  }
  args.q = heads_from(q, 0), args.k = heads_from(k, 0), args.v = heads_from(v, 0);
}

void check_packed(Check& check, const AnyBuffer& qkv, int64_t n_heads, AttentionArgs& args) {
  check.require(has_rank(qkv, 4) && n_heads > 0 && qkv.dimensions()[2] > n_heads &&
                    (qkv.dimensions()[2] - n_heads) % 2 == 0,
                "qkv[B,T,H+2G,K]");
  if (!check.ok()) return;
  const auto d = qkv.dimensions();
  args.batch = d[0], args.queries = args.keys = d[1], args.heads = n_heads, args.kv_heads = (d[2] - n_heads) / 2;
  args.head_width = d[3];
  args.q = heads_from(qkv, 0), args.k = heads_from(qkv, n_heads), args.v = heads_from(qkv, n_heads + args.kv_heads);
}

// o and do [B,T,H,K], lse [B,H,T].
void check_outputs(Check& check, const AnyBuffer& o, const Floats& lse, ffi::DataType scalar, AttentionArgs& args) {
  check.shape(o, {args.batch, args.queries, args.heads, args.head_width}, "o[B,T,H,K]");
  check.require(o.element_type() == scalar, "o and its gradient of the type of q");
  check.shape(lse, {args.batch, args.heads, args.queries}, "lse[B,H,T]");
  if (!check.ok()) return;
  args.o = heads_from(o, 0), args.log_sum_exp = lse.typed_data();
}

ffi::Error attention_forward(ffi::ThreadPool pool, AnyBuffer q, AnyBuffer k, AnyBuffer v, Booleans mask, AnyOut o,
                             FloatsOut lse, int64_t causal, int64_t window) {
  Check check("attention");
  AttentionArgs args = {};
  check_separate(check, q, k, v, args);
  if (check.ok()) check_attention(check, mask, causal, window, args);
  if (check.ok()) check_outputs(check, *o, *lse, q.element_type(), args);
  return launch(pool, q.element_type(), check, &Kernels::attention_forward, args);
}

ffi::Error attention_backward(ffi::ThreadPool pool, AnyBuffer q, AnyBuffer k, AnyBuffer v, Booleans mask, AnyBuffer o,
                              Floats lse, AnyBuffer d_o, AnyOut dq, AnyOut dk, AnyOut dv, int64_t causal,
                              int64_t window) {
  Check check("attention");
  AttentionArgs args = {}, gradients = {};
  check_separate(check, q, k, v, args);
  if (check.ok()) check_attention(check, mask, causal, window, args);
  if (check.ok()) check_separate(check, *dq, *dk, *dv, gradients);
  if (check.ok()) check_outputs(check, d_o, lse, q.element_type(), gradients);
  if (check.ok()) check_outputs(check, o, lse, q.element_type(), args);
  args.d_o = gradients.o, args.dq = gradients.q, args.dk = gradients.k, args.dv = gradients.v;
  return launch(pool, q.element_type(), check, &Kernels::attention_backward, args);
}

ffi::Error packed_attention_forward(ffi::ThreadPool pool, AnyBuffer qkv, Booleans mask, AnyOut o, FloatsOut lse,
                                    int64_t n_heads, int64_t causal, int64_t window) {
  Check check("packed_attention");
  AttentionArgs args = {};
  check_packed(check, qkv, n_heads, args);
  if (check.ok()) check_attention(check, mask, causal, window, args);
  if (check.ok()) check_outputs(check, *o, *lse, qkv.element_type(), args);
  return launch(pool, qkv.element_type(), check, &Kernels::attention_forward, args);
}

ffi::Error packed_attention_backward(ffi::ThreadPool pool, AnyBuffer qkv, Booleans mask, AnyBuffer o, Floats lse,
                                     AnyBuffer d_o, AnyOut dqkv, int64_t n_heads, int64_t causal, int64_t window) {
  Check check("packed_attention");
  AttentionArgs args = {}, gradients = {};
  check_packed(check, qkv, n_heads, args);
  if (check.ok()) check_attention(check, mask, causal, window, args);
  if (check.ok()) check_packed(check, *dqkv, n_heads, gradients);
  if (check.ok()) check_outputs(check, d_o, lse, qkv.element_type(), gradients);
  if (check.ok()) check_outputs(check, o, lse, qkv.element_type(), args);
  args.d_o = gradients.o, args.dq = gradients.q, args.dk = gradients.k, args.dv = gradients.v;
  return launch(pool, qkv.element_type(), check, &Kernels::attention_backward, args);
}

// ---- Linear + cross-entropy -------------------------------------------------------------------------------------

struct LossOptions {
  float label_smoothing, z_loss, soft_cap;
};

void check_linear_cross_entropy(Check& check, const AnyBuffer& x, const Floats& w, const Integers& targets,
                                const Floats& losses, LossOptions options, LinearCrossEntropyArgs& args) {
  const char* rule = "x[N,D], w[V,D], targets[N], and gives losses[N]";
  check.require(has_rank(x, 2) && w.dimensions().size() == 2, rule);
  if (!check.ok()) return;
  args.rows = x.dimensions()[0], args.width = x.dimensions()[1], args.vocabulary = w.dimensions()[0];
  check.shape(w, {args.vocabulary, args.width}, rule);
  check.shape(targets, {args.rows}, rule);
  check.shape(losses, {args.rows}, rule);
  check.require(args.vocabulary > 0, "a vocabulary that is not empty");
  args.label_smoothing = options.label_smoothing, args.z_loss = options.z_loss, args.soft_cap = options.soft_cap;
  args.x = x.untyped_data(), args.w = w.typed_data(), args.target = targets.typed_data();
  args.losses = losses.typed_data();
}

ffi::Error linear_cross_entropy_loss(ffi::ThreadPool pool, AnyBuffer x, Floats w, Integers targets, FloatsOut losses,
                                     float label_smoothing, float z_loss, float soft_cap) {
  Check check("linear_cross_entropy");
  LinearCrossEntropyArgs args = {};
  check_linear_cross_entropy(check, x, w, targets, *losses, {label_smoothing, z_loss, soft_cap}, args);
  return launch(pool, x.element_type(), check, &Kernels::linear_cross_entropy, args);
}

ffi::Error linear_cross_entropy_gradients(ffi::ThreadPool pool, AnyBuffer x, Floats w, Integers targets, Floats weights,
                                          FloatsOut losses, AnyOut dx, FloatsOut dw, float label_smoothing,
                                          float z_loss, float soft_cap) {
  Check check("linear_cross_entropy");
  LinearCrossEntropyArgs args = {};
  check_linear_cross_entropy(check, x, w, targets, *losses, {label_smoothing, z_loss, soft_cap}, args);
  check.shape_or_absent(weights, {args.rows}, "weights[N]");
  check.shape(*dx, {args.rows, args.width}, "dx[N,D]");
  check.require(dx->element_type() == x.element_type(), "dx of the type of x");
  check.shape(*dw, {args.vocabulary, args.width}, "dw[V,D]");
  args.weights = data_or_null(weights), args.dx = dx->untyped_data(), args.dw = dw->typed_data();
  return launch(pool, x.element_type(), check, &Kernels::linear_cross_entropy, args);
}

// ---- Embedding --------------------------------------------------------------------------------------------------

ffi::Error embedding_backward(ffi::ThreadPool pool, AnyBuffer dy, Integers tokens, FloatsOut dtable) {
  Check check("embedding");
  check.require(has_rank(dy, 2) && dtable->dimensions().size() == 2, "dy[N,D], and gives dtable[V,D]");
  if (!check.ok()) return check.error();
  EmbeddingArgs args = {};
  args.rows = dy.dimensions()[0], args.width = dy.dimensions()[1], args.vocabulary = dtable->dimensions()[0];
  check.shape(tokens, {args.rows}, "tokens[N]");
  check.shape(*dtable, {args.vocabulary, args.width}, "dy[N,D], and gives dtable[V,D]");
  check.number(dy, dy.element_type());
  args.dy = tensor(dy), args.tokens = tokens.typed_data(), args.dtable = dtable->typed_data();
  return launch(pool, dy.element_type(), check, &Kernels::embedding_backward, args);
}

// ---- AdamW ------------------------------------------------------------------------------------------------------

// `numbers` are those that change from step to step: gradient_scale, rate, first_correction, second_correction. Of
// `arrays` there are four a leaf: all parameters, then all gradients, first moments, second moments; `updated` are
// three a leaf.
ffi::Error adamw(ffi::ThreadPool pool, Floats numbers, Floats decays, ffi::RemainingArgs arrays, FloatsOut norm,
                 ffi::RemainingRets updated, float clip_norm, float b1, float b2, float epsilon) {
  Check check("adamw");
  check.shape(numbers, {4}, "four numbers");
  check.shape(*norm, {1}, "one norm");
  const size_t count = decays.dimensions().size() == 1 ? static_cast<size_t>(decays.dimensions()[0]) : 0;
  check.require(arrays.size() == 4 * count && updated.size() == 3 * count,
                "a weight decay, four arrays and three results a leaf");
  if (!check.ok()) return check.error();
  std::vector<AdamWLeaf> leaves(count);
  for (size_t i = 0; i < count; ++i) {
    const float* read[4];
    float* written[3];
    long size = 0;
    for (size_t kind = 0; kind < 4; ++kind) {
      auto array = arrays.get<Floats>(kind * count + i);
      if (array.has_error()) return array.error();
      if (kind == 0) size = static_cast<long>(array->element_count());
      check.require(static_cast<long>(array->element_count()) == size, "arrays of one size a leaf");
      read[kind] = array->typed_data();
    }
    for (size_t kind = 0; kind < 3; ++kind) {
      auto array = updated.get<Floats>(kind * count + i);
      if (array.has_error()) return array.error();
      check.require(static_cast<long>((*array)->element_count()) == size, "results of the size of the leaf");
      written[kind] = (*array)->typed_data();
    }
    leaves[i] = {size,    decays.typed_data()[i], read[0],    read[1],   read[2],
                 read[3], written[0],             written[1], written[2]};
  }
  const float* number = numbers.typed_data();
  const AdamWArgs args = {leaves.data(), static_cast<long>(count), number[0], clip_norm, number[1], b1, b2, epsilon,
                          number[2],     number[3],                norm->typed_data()};
  return launch(pool, ffi::F32, check, &Kernels::adamw, args);
}

// ---- Decoding ---------------------------------------------------------------------------------------------------

using Words = ffi::Buffer<ffi::U32>;

// Packed weights of `inputs` by `outputs`: [ceil(outputs / panel), ceil(inputs / group), panel] words.
void check_packed_weights(Check& check, const Words& packed, long inputs, long outputs, const Kernels& kernels) {
  check.shape(packed,
              {(outputs + kernels.panel - 1) / kernels.panel, (inputs + kernels.group - 1) / kernels.group,
               kernels.panel},
              "weights packed for this processor, of the model's sizes");
}

ffi::Error pack_weights(ffi::ThreadPool pool, Floats w, ffi::Result<Words> packed, int64_t transposed,
                        int64_t bfloat16) {
  Check check("pack_weights");
  const Kernels* kernels = best_kernels(bfloat16 != 0);
  check.require(w.dimensions().size() == 2, "w[K,N]");
  check.require(kernels != nullptr, "a processor that has the instructions");
  if (!check.ok()) return check.error();
  PackArgs args = {};
  args.transposed = transposed != 0;
  args.inputs = w.dimensions()[args.transposed], args.outputs = w.dimensions()[!args.transposed];
  args.w = w.typed_data(), args.packed = packed->typed_data();
  check_packed_weights(check, *packed, args.inputs, args.outputs, *kernels);
  return launch(pool, bfloat16 ? ffi::BF16 : ffi::F32, check, &Kernels::pack_weights, args);
}

// The weights of a step, one after the other.
class WeightReader {
 public:
  WeightReader(Check& check, const ffi::RemainingArgs& weights, const Kernels& kernels)
      : check_(check), weights_(weights), kernels_(kernels) {}

  const float* floats(Shape shape, const char* rule) { return read<Floats>([&](const Floats& array) {
      check_.shape(array, shape, rule);
      return array.typed_data();
    });
  }
  const float* floats_or_null(Shape shape, const char* rule) { return read<Floats>([&](const Floats& array) {
      check_.shape_or_absent(array, shape, rule);
      return data_or_null(array);
    });
  }
  // [P, width] or null; `limit` becomes P where that is smaller.
  const float* of_positions(long width, long& limit, const char* rule) { return read<Floats>([&](const Floats& array) {
      const auto dims = array.dimensions();
      if (absent(array)) return static_cast<float*>(nullptr);
      check_.require(dims.size() == 2 && dims[1] == width, rule);
      if (check_.ok() && dims[0] < limit) limit = dims[0];
      return array.typed_data();
    });
  }
  const uint32_t* packed(long inputs, long outputs) { return read<Words>([&](const Words& array) {
      check_packed_weights(check_, array, inputs, outputs, kernels_);
      return array.typed_data();
    });
  }
  bool at_end() const { return next_ == weights_.size(); }

 private:
  template <typename Buffer, typename Use>
  auto read(Use use) -> decltype(use(std::declval<const Buffer&>())) {
    auto array = weights_.get<Buffer>(next_++);
    check_.require(array.has_value(), "as many weights as the model has, in their types");
    return check_.ok() ? use(*array) : nullptr;
  }
  Check& check_;
  const ffi::RemainingArgs& weights_;
  const Kernels& kernels_;
  size_t next_ = 0;
};

// Of the weights, the embedding table, positions, rotations, the final norm's scale and bias and the head come first,
// then those of each layer in the order of DecodeLayer.
void read_weights(Check& check, WeightReader& read, DecodeArgs& args, std::vector<DecodeLayer>& layers, long& limit) {
  const long D = args.width, F = args.hidden, up = args.activation == Activation::kSwiglu ? 2 * F : F;
  args.table = read.floats({args.vocabulary, D}, "table[V,D]");
  args.positions = read.of_positions(D, limit, "positions[P,D]");
  args.rotations = read.of_positions(D / args.heads, limit, "rotations[P,K]");
  args.final_scale = read.floats({D}, "scale[D] of the final norm");
  args.final_bias = read.floats_or_null({D}, "bias[D] of the final norm");
  args.head = read.packed(D, args.vocabulary);
  for (DecodeLayer& layer : layers) {
    layer.attention_scale = read.floats({D}, "scale[D] of a norm");
    layer.attention_bias = read.floats_or_null({D}, "bias[D] of a norm");
    layer.qkv = read.packed(D, 3 * D);
    layer.qkv_bias = read.floats_or_null({3 * D}, "bias[3D] of queries, keys and values");
    layer.out = read.packed(D, D);
    layer.out_bias = read.floats_or_null({D}, "bias[D] behind attention");
    layer.mlp_scale = read.floats({D}, "scale[D] of a norm");
    layer.mlp_bias = read.floats_or_null({D}, "bias[D] of a norm");
    layer.up = read.packed(D, up);
    layer.up_bias = read.floats_or_null({up}, "bias[F] of the hidden features");
    layer.down = read.packed(F, D);
    layer.down_bias = read.floats_or_null({D}, "bias[D] behind the hidden features");
  }
  check.require(read.at_end(), "no more weights than the model has");
  args.layers = layers.data();
}

// The caches are written where they lie: XLA has to be told that the results `keys` and `values` are their memory.
ffi::Error decode_step(ffi::ThreadPool pool, Integers tokens, Integers lengths, Integers counts, Words old_keys,
                       Words old_values, ffi::RemainingArgs weights, ffi::Result<Words> keys, ffi::Result<Words> values,
                       IntegersOut best, FloatsOut logits, int64_t hidden, int64_t head_width, int64_t activation,
                       int64_t centre, int64_t bfloat16, float epsilon) {
  Check check("decode_step");
  const char* caches = "caches k[L,B,H,K/g,T] and v[L,B,H,T/g,K] of words, written in place, T a multiple of 16";
  const ffi::DataType scalar = bfloat16 ? ffi::BF16 : ffi::F32;
  const Kernels* kernels = best_kernels(bfloat16 != 0);
  check.require(kernels != nullptr, "a processor that has the instructions");
  check.require(tokens.dimensions().size() == 2, "tokens[B,S]");
  check.require(keys->dimensions().size() == 5 && keys->dimensions()[4] % 16 == 0, caches);
  check.require(keys->typed_data() == old_keys.typed_data() && values->typed_data() == old_values.typed_data(), caches);
  check.require(activation >= 1 && activation <= 3, "activation 1 to 3");
  auto table = weights.get<Floats>(0);
  check.require(table.has_value() && table->dimensions().size() == 2, "weights that begin with the table[V,D]");
  if (!check.ok()) return check.error();
  const auto d = keys->dimensions();
  const long vocabulary = table->dimensions()[0];
  DecodeArgs args = {};
  args.num_layers = d[0], args.batch = d[1], args.heads = d[2], args.capacity = d[4];
  args.width = d[2] * head_width, args.vocabulary = vocabulary;
  args.steps = tokens.dimensions()[1], args.hidden = hidden;
  args.centre = centre != 0, args.epsilon = epsilon, args.activation = static_cast<Activation>(activation);
  check.require(args.heads > 0 && args.vocabulary > 0, "at least one head and one token");
  check.shape(tokens, {args.batch, args.steps}, "tokens[B,S]");
  check.shape(lengths, {args.batch}, "lengths[B]");
  check.shape(counts, {args.batch}, "counts[B]");
  check.shape(*keys, {d[0], d[1], d[2], (head_width + kernels->group - 1) / kernels->group, d[4]}, caches);
  check.shape(*values, {d[0], d[1], d[2], d[4] / kernels->group, head_width}, caches);
  check.require(best->dimensions().size() == 2, "best[B,S] or [B,1]");
  if (!check.ok()) return check.error();
  const long outcomes = best->dimensions()[1];
  args.last_only = outcomes < args.steps;
  check.shape(*best, {args.batch, args.last_only ? 1 : args.steps}, "best[B,S] or [B,1]");
  check.shape_or_absent(*logits, {args.batch, outcomes, args.vocabulary}, "logits[B,S,V] or [B,1,V]");
  if (!check.ok()) return check.error();

  std::vector<DecodeLayer> layers(static_cast<size_t>(args.num_layers));
  WeightReader reader(check, weights, *kernels);
  long limit = args.capacity;
  read_weights(check, reader, args, layers, limit);
  args.tokens = tokens.typed_data(), args.lengths = lengths.typed_data(), args.counts = counts.typed_data();
  args.keys = keys->typed_data(), args.values = values->typed_data();
  args.best = best->typed_data(), args.logits = data_or_null(*logits);
  for (long b = 0; check.ok() && b < args.batch; ++b) {
    const long count = args.counts[b];
    check.require(count == 0 || (count > 0 && count <= args.steps && args.lengths[b] >= 0 &&
                                 args.lengths[b] + count <= limit),
                  "as many tokens as the cache and the model's positions have room for");
    for (long i = 0; check.ok() && i < count; ++i)
      check.require(args.tokens[b * args.steps + i] >= 0 && args.tokens[b * args.steps + i] < vocabulary,
                    "tokens below the size of the vocabulary");
    const long used = args.last_only ? (count > 0) : count;
    for (long i = used; check.ok() && i < outcomes; ++i) {  // what is not computed is defined all the same
      args.best[b * outcomes + i] = 0;
      if (args.logits) std::fill_n(args.logits + (b * outcomes + i) * vocabulary, vocabulary, 0.0f);
    }
  }
  return launch(pool, scalar, check, &Kernels::decode_step, args);
}

// The arrays that change are operands as well as results, in the order in which they are taken here.
class Carry {
 public:
  Carry(Check& check, const ffi::RemainingArgs& before, const ffi::RemainingRets& after)
      : check_(check), before_(before), after_(after) {}

  template <ffi::DataType kType>
  ffi::NativeType<kType>* next(Shape shape, const char* rule) {
    auto from = before_.get<ffi::Buffer<kType>>(next_);
    auto to = after_.get<ffi::Buffer<kType>>(next_++);
    check_.require(from.has_value() && to.has_value(), rule);
    if (!check_.ok()) return nullptr;
    check_.shape(*from, shape, rule);
    check_.shape(**to, shape, rule);
    if (!check_.ok()) return nullptr;
    auto* data = (*to)->typed_data();
    if (data != from->typed_data()) std::copy_n(from->typed_data(), from->element_count(), data);
    return data;
  }

 private:
  Check& check_;
  const ffi::RemainingArgs& before_;
  const ffi::RemainingRets& after_;
  size_t next_ = 0;
};

ffi::Error speculation_round(Integers chosen, Integers limit, Integers stops, Integers chain, Floats thresholds,
                             ffi::RemainingArgs before, ffi::RemainingRets after, float memory, float checked_bonus,
                             float right_bonus) {
  Check check("speculation_round");
  check.require(chosen.dimensions().size() == 2 && chosen.dimensions()[1] > 1, "chosen[B,1+K]");
  check.require(chain.dimensions().size() == 2 && stops.dimensions().size() == 1, "chain[V,K], stops[Z]");
  if (!check.ok()) return check.error();
  RoundArgs args = {};
  args.batch = chosen.dimensions()[0], args.steps = chosen.dimensions()[1];
  args.vocabulary = chain.dimensions()[0], args.num_stops = stops.dimensions()[0];
  args.memory = memory, args.checked_bonus = checked_bonus, args.right_bonus = right_bonus;
  check.shape(chain, {args.vocabulary, args.steps - 1}, "chain[V,K]");
  check.shape(thresholds, {args.steps - 1}, "thresholds[K]");
  check.shape(limit, {args.batch}, "limit[B]");
  args.chosen = chosen.typed_data(), args.limit = limit.typed_data(), args.stops = stops.typed_data();
  args.chain = chain.typed_data(), args.thresholds = thresholds.typed_data();
  if (auto ids = before.get<Integers>(0); ids.has_value() && ids->dimensions().size() == 2)
    args.capacity = ids->dimensions()[1];
  const long B = args.batch;
  Carry carry(check, before, after);
  args.ids = carry.next<ffi::S32>({B, args.capacity}, "ids[B,T]");
  args.known = carry.next<ffi::S32>({B}, "known[B]");
  args.pending = carry.next<ffi::S32>({B, args.steps}, "pending[B,1+K]");
  args.count = carry.next<ffi::S32>({B}, "count[B]");
  args.is_done = reinterpret_cast<uint8_t*>(carry.next<ffi::PRED>({B}, "is_done[B]"));
  args.place = carry.next<ffi::S32>({B, args.vocabulary}, "place[B,V]");
  args.noted = carry.next<ffi::S32>({B}, "noted[B]");
  args.checked = carry.next<ffi::F32>({B}, "checked[B]");
  args.right = carry.next<ffi::F32>({B}, "right[B]");
  args.drafted = carry.next<ffi::S32>({B}, "drafted[B]");
  args.accepted = carry.next<ffi::S32>({B}, "accepted[B]");
  for (long b = 0; check.ok() && b < B; ++b)
    check.require(round_of_sequence(args, b), "texts within their arrays, of tokens of the vocabulary");
  return check.ok() ? ffi::Error::Success() : check.error();
}

}  // namespace
}  // namespace ryot

#pragma GCC visibility push(default)  // what follows is all that Python sees of this library

// Whether there are kernels for this processor whose products take bfloat16 (1) or float32 (0) operands: the name of
// the instruction set that they use, or "".
extern "C" const char* ryot_instruction_set(int bfloat16) {
  const ryot::Kernels* kernels = ryot::best_kernels(bfloat16 != 0);
#if defined(__x86_64__)
  if (kernels == &ryot::kAvx512Bf16Kernels) return "avx512bf16";
  if (kernels == &ryot::kAvx512Kernels) return "avx512";
  if (kernels == &ryot::kAvx2Kernels) return "avx2";
#endif
  return kernels ? "?" : "";
}

// Columns of a panel (0) and scalars of a word (1) of weights packed for those kernels, which have to exist.
extern "C" int ryot_packing(int bfloat16, int what) {
  const ryot::Kernels* kernels = ryot::best_kernels(bfloat16 != 0);
  return static_cast<int>(what ? kernels->group : kernels->panel);
}

#define RYOT_HANDLER(function, binding) XLA_FFI_DEFINE_HANDLER_SYMBOL(ryot_##function, ryot::function, binding)
#define RYOT_BIND ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()

RYOT_HANDLER(dense_forward, RYOT_BIND.Arg<ryot::AnyBuffer>().Arg<ryot::Floats>().Arg<ryot::Floats>()
                                .Arg<ryot::AnyBuffer>().Ret<ryot::AnyBuffer>().Ret<ryot::AnyBuffer>()
                                .Attr<int64_t>("activation"));
RYOT_HANDLER(dense_backward, RYOT_BIND.Arg<ryot::AnyBuffer>().Arg<ryot::AnyBuffer>().Arg<ryot::Floats>()
                                 .Arg<ryot::AnyBuffer>().Arg<ryot::AnyBuffer>().Ret<ryot::AnyBuffer>()
                                 .Ret<ryot::Floats>().Ret<ryot::Floats>().Attr<int64_t>("activation"));
RYOT_HANDLER(norm_forward, RYOT_BIND.Arg<ryot::AnyBuffer>().Arg<ryot::AnyBuffer>().Arg<ryot::Floats>()
                               .Arg<ryot::Floats>().Ret<ryot::AnyBuffer>().Ret<ryot::AnyBuffer>().Ret<ryot::Floats>()
                               .Attr<float>("epsilon").Attr<int64_t>("centre"));
RYOT_HANDLER(norm_backward, RYOT_BIND.Arg<ryot::AnyBuffer>().Arg<ryot::AnyBuffer>().Arg<ryot::Floats>()
                                .Arg<ryot::Floats>().Arg<ryot::AnyBuffer>().Ret<ryot::AnyBuffer>().Ret<ryot::Floats>()
                                .Ret<ryot::Floats>().Attr<int64_t>("centre"));
RYOT_HANDLER(norm_dense_forward, RYOT_BIND.Arg<ryot::AnyBuffer>().Arg<ryot::Floats>().Arg<ryot::Floats>()
                                     .Arg<ryot::Floats>().Arg<ryot::Floats>().Ret<ryot::AnyBuffer>()
                                     .Ret<ryot::AnyBuffer>().Ret<ryot::Floats>().Attr<int64_t>("activation")
                                     .Attr<float>("epsilon").Attr<int64_t>("centre"));
RYOT_HANDLER(norm_dense_backward, RYOT_BIND.Arg<ryot::AnyBuffer>().Arg<ryot::AnyBuffer>().Arg<ryot::Floats>()
                                      .Arg<ryot::Floats>().Arg<ryot::Floats>().Arg<ryot::Floats>()
                                      .Arg<ryot::AnyBuffer>().Arg<ryot::AnyBuffer>().Ret<ryot::AnyBuffer>()
                                      .Ret<ryot::Floats>().Ret<ryot::Floats>().Ret<ryot::Floats>().Ret<ryot::Floats>()
                                      .Attr<int64_t>("activation").Attr<int64_t>("centre"));
RYOT_HANDLER(attention_forward, RYOT_BIND.Arg<ryot::AnyBuffer>().Arg<ryot::AnyBuffer>().Arg<ryot::AnyBuffer>()
                                    .Arg<ryot::Booleans>().Ret<ryot::AnyBuffer>().Ret<ryot::Floats>()
                                    .Attr<int64_t>("causal").Attr<int64_t>("window"));
RYOT_HANDLER(attention_backward, RYOT_BIND.Arg<ryot::AnyBuffer>().Arg<ryot::AnyBuffer>().Arg<ryot::AnyBuffer>()
                                     .Arg<ryot::Booleans>().Arg<ryot::AnyBuffer>().Arg<ryot::Floats>()
                                     .Arg<ryot::AnyBuffer>().Ret<ryot::AnyBuffer>().Ret<ryot::AnyBuffer>()
                                     .Ret<ryot::AnyBuffer>().Attr<int64_t>("causal").Attr<int64_t>("window"));
RYOT_HANDLER(packed_attention_forward, RYOT_BIND.Arg<ryot::AnyBuffer>().Arg<ryot::Booleans>().Ret<ryot::AnyBuffer>()
                                           .Ret<ryot::Floats>().Attr<int64_t>("n_heads").Attr<int64_t>("causal")
                                           .Attr<int64_t>("window"));
RYOT_HANDLER(packed_attention_backward, RYOT_BIND.Arg<ryot::AnyBuffer>().Arg<ryot::Booleans>().Arg<ryot::AnyBuffer>()
                                            .Arg<ryot::Floats>().Arg<ryot::AnyBuffer>().Ret<ryot::AnyBuffer>()
                                            .Attr<int64_t>("n_heads").Attr<int64_t>("causal").Attr<int64_t>("window"));
RYOT_HANDLER(linear_cross_entropy_loss, RYOT_BIND.Arg<ryot::AnyBuffer>().Arg<ryot::Floats>().Arg<ryot::Integers>()
                                            .Ret<ryot::Floats>().Attr<float>("label_smoothing").Attr<float>("z_loss")
                                            .Attr<float>("soft_cap"));
RYOT_HANDLER(linear_cross_entropy_gradients, RYOT_BIND.Arg<ryot::AnyBuffer>().Arg<ryot::Floats>().Arg<ryot::Integers>()
                                                 .Arg<ryot::Floats>().Ret<ryot::Floats>().Ret<ryot::AnyBuffer>()
                                                 .Ret<ryot::Floats>().Attr<float>("label_smoothing")
                                                 .Attr<float>("z_loss").Attr<float>("soft_cap"));
RYOT_HANDLER(embedding_backward, RYOT_BIND.Arg<ryot::AnyBuffer>().Arg<ryot::Integers>().Ret<ryot::Floats>());
RYOT_HANDLER(adamw, RYOT_BIND.Arg<ryot::Floats>().Arg<ryot::Floats>().RemainingArgs().Ret<ryot::Floats>()
                        .RemainingRets().Attr<float>("clip_norm").Attr<float>("b1").Attr<float>("b2")
                        .Attr<float>("epsilon"));
RYOT_HANDLER(pack_weights, RYOT_BIND.Arg<ryot::Floats>().Ret<ryot::Words>().Attr<int64_t>("transposed")
                               .Attr<int64_t>("bfloat16"));
RYOT_HANDLER(decode_step, RYOT_BIND.Arg<ryot::Integers>().Arg<ryot::Integers>().Arg<ryot::Integers>()
                              .Arg<ryot::Words>().Arg<ryot::Words>().RemainingArgs().Ret<ryot::Words>()
                              .Ret<ryot::Words>().Ret<ryot::Integers>().Ret<ryot::Floats>()
                              .Attr<int64_t>("hidden").Attr<int64_t>("head_width").Attr<int64_t>("activation")
                              .Attr<int64_t>("centre").Attr<int64_t>("bfloat16").Attr<float>("epsilon"));
RYOT_HANDLER(speculation_round, ffi::Ffi::Bind().Arg<ryot::Integers>().Arg<ryot::Integers>().Arg<ryot::Integers>()
                                    .Arg<ryot::Integers>().Arg<ryot::Floats>().RemainingArgs().RemainingRets()
                                    .Attr<float>("memory").Attr<float>("checked_bonus").Attr<float>("right_bonus"));
#pragma GCC visibility pop
