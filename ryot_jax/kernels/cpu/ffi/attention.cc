// Handlers of attention.
#include "handlers.h"

namespace ryot {
namespace {

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

// Checks o and do [B,T,H,K] and lse [B,H,T].
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

}  // namespace
}  // namespace ryot

RYOT_HANDLER(attention_forward,
             "q k v mask -> o log_sum_exp | causal window");
RYOT_HANDLER(attention_backward,
             "q k v mask o log_sum_exp do -> dq dk dv | causal window");
RYOT_HANDLER(packed_attention_forward,
             "qkv mask -> o log_sum_exp | n_heads causal window");
RYOT_HANDLER(packed_attention_backward,
             "qkv mask o log_sum_exp do -> dqkv | n_heads causal window");
