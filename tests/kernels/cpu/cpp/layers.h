// The kernels of training on odd and tiny sizes.
#ifndef RYOT_TESTS_KERNELS_CPU_LAYERS_H_
#define RYOT_TESTS_KERNELS_CPU_LAYERS_H_

#include <algorithm>
#include <cmath>

#include "support.h"

namespace {

void dense(const ryot::Target& target, bool bf16, long N, long K, long M) {
  for (int activation = 0; activation <= 3; ++activation) {
    if (activation == 3 && M % 2) continue;
    for (bool extras : {false, true}) {
      ryot::DenseArgs args = {};
      args.rows = N, args.inputs = K, args.outputs = M, args.activation = static_cast<ryot::Activation>(activation);
      Array x(N * K, bf16), w(K * M, false), bias(M, false), residual(N * args.width(), false);
      Array y(N * args.width(), bf16 && !extras), slopes(N * M, bf16), dx(N * K, bf16), dw(K * M, false), db(M, false);
      args.x = x.bytes.data(), args.w = w.floats(), args.y = y.tensor();
      args.bias = extras ? bias.floats() : nullptr;
      args.residual = extras ? residual.tensor() : ryot::Tensor{};
      args.slopes = activation ? slopes.bytes.data() : nullptr;
      same_with_threads("dense_forward", {&y}, target, [&](const auto& p) { return target.kernels.dense_forward(p, args); });
      Array dy(N * args.width(), bf16 && !extras);
      Array x_slopes(N * K, bf16);
      args.y = dy.tensor(), args.dx = dx.bytes.data(), args.dw = dw.floats();
      args.x_slopes = extras ? x_slopes.bytes.data() : nullptr;
      args.dbias = extras ? db.floats() : nullptr;
      std::vector<Array*> outputs = {&dx, &dw};
      if (extras) outputs.push_back(&db);
      same_with_threads("dense_backward", outputs, target, [&](const auto& p) { return target.kernels.dense_backward(p, args); });
    }
  }
}

// With up to four threads, groups of rows add up a gradient of small weights each; with more, it is one sum. Both are the
// same but for rounding.
void dense_in_groups(const ryot::Target& target, bool bf16, long N, long K, long M) {
  ryot::DenseArgs args = {};
  Array x(N * K, bf16), w(K * M, false), dy(N * M, bf16), dx(N * K, bf16), grouped(K * M, false), plain(K * M, false);
  args.rows = N, args.inputs = K, args.outputs = M, args.x = x.bytes.data(), args.w = w.floats();
  args.y = dy.tensor(), args.dx = dx.bytes.data();
  for (int threads : {4, 5}) {
    args.dw = (threads == 4 ? grouped : plain).floats();
    Pool pool(threads);
    require(is_done(target.kernels.dense_backward(ryot::PoolParallel<Pool>(pool, target.hooks), args)),
            "dense_backward runs");
  }
  float largest = 0, apart = 0;
  for (long i = 0; i < K * M; ++i) {
    largest = std::max(largest, std::abs(plain.floats()[i]));
    apart = std::max(apart, std::abs(plain.floats()[i] - grouped.floats()[i]));
  }
  require(apart > 0, "groups of rows sum in another order");
  require(apart < 1e-5f * largest, "groups of rows give the same sums");
}

// The dense kernels with a norm in front of them.
void norm_dense(const ryot::Target& target, bool bf16, long N, long K, long M) {
  for (bool extras : {false, true}) {
    ryot::NormArgs norm = {};
    ryot::DenseArgs args = {};
    Array s(N * K, bf16 && extras), scale(K, false), shift(K, false), statistics(2 * N, false), w(K * M, false);
    Array y(N * M, bf16), slopes(N * M, bf16);
    norm.rows = N, norm.width = K, norm.centre = extras, norm.epsilon = 1e-5f, norm.s = s.tensor();
    norm.scale = scale.floats(), norm.bias = extras ? shift.floats() : nullptr, norm.statistics = statistics.floats();
    args.rows = N, args.inputs = K, args.outputs = M, args.norm = &norm, args.w = w.floats(), args.y = y.tensor();
    args.activation = extras ? ryot::Activation::kGelu : ryot::Activation::kNone;
    args.slopes = extras ? slopes.bytes.data() : nullptr;
    same_with_threads("norm_dense_forward", {&y, &statistics}, target,
                      [&](const auto& p) { return target.kernels.dense_forward(p, args); });
    Array dy(N * M, bf16), ds(N * K, bf16 && extras), dx(N * K, bf16 && extras), dscale(K, false), dshift(K, false);
    Array dw(K * M, false), db(M, false);
    norm.ds = extras ? ds.tensor() : ryot::Tensor{}, norm.dx = dx.tensor(), norm.dscale = dscale.floats();
    norm.dbias = extras ? dshift.floats() : nullptr;
    args.y = dy.tensor(), args.dw = dw.floats(), args.dbias = extras ? db.floats() : nullptr;
    std::vector<Array*> outputs = {&dx, &dscale, &dw};
    if (extras) outputs.insert(outputs.end(), {&dshift, &db});
    same_with_threads("norm_dense_backward", outputs, target, [&](const auto& p) { return target.kernels.dense_backward(p, args); });
  }
}

void norm(const ryot::Target& target, bool bf16, long N, long D) {
  for (bool extras : {false, true}) {
    ryot::NormArgs args = {};
    Array x(N * D, bf16), residual(N * D, false), scale(D, false), bias(D, false), y(N * D, bf16), s(N * D, false);
    Array statistics(2 * N, false), dy(N * D, bf16), ds(N * D, false), dx(N * D, false), dscale(D, false), db(D, false);
    args.rows = N, args.width = D, args.centre = extras, args.epsilon = 1e-5f;
    args.x = x.tensor(), args.scale = scale.floats(), args.bias = extras ? bias.floats() : nullptr;
    args.residual = extras ? residual.tensor() : ryot::Tensor{}, args.y = y.tensor(), args.s = s.tensor();
    args.statistics = statistics.floats();
    same_with_threads("norm_forward", {&y, &s, &statistics}, target,
                      [&](const auto& p) { return target.kernels.norm_forward(p, args); });
    args.y = dy.tensor(), args.ds = extras ? ds.tensor() : ryot::Tensor{}, args.dx = dx.tensor();
    args.dscale = dscale.floats(), args.dbias = extras ? db.floats() : nullptr;
    std::vector<Array*> outputs = {&dx, &dscale};
    if (extras) outputs.push_back(&db);
    same_with_threads("norm_backward", outputs, target, [&](const auto& p) { return target.kernels.norm_backward(p, args); });
  }
}

void attention(const ryot::Target& target, bool bf16, long B, long T, long S, long H, long G, long K) {
  for (int kind = 0; kind < 4; ++kind) {  // all keys, causal, window, and a mask that hides two keys of three
    if (kind && T != S) continue;
    ryot::AttentionArgs args = {};
    args.batch = B, args.queries = T, args.keys = S, args.heads = H, args.kv_heads = G, args.head_width = K;
    args.causal = kind == 1 || kind == 2, args.window = kind == 2 ? 3 : 0;
    std::vector<uint8_t> mask(B * S);
    for (long i = 0; i < B * S; ++i) mask[i] = i % 3 == 0;
    args.mask = kind == 3 ? mask.data() : nullptr;
    Array q(B * T * H * K, bf16), k(B * S * G * K, bf16), v(B * S * G * K, bf16), o(B * T * H * K, bf16);
    Array lse(B * H * T, false), d_o(B * T * H * K, bf16), dq(B * T * H * K, bf16), dk(B * S * G * K, bf16);
    Array dv(B * S * G * K, bf16);
    args.q = {q.bytes.data(), H * K}, args.k = {k.bytes.data(), G * K}, args.v = {v.bytes.data(), G * K};
    args.o = {o.bytes.data(), H * K}, args.log_sum_exp = lse.floats();
    same_with_threads("attention_forward", {&o, &lse}, target,
                      [&](const auto& p) { return target.kernels.attention_forward(p, args); });
    args.d_o = {d_o.bytes.data(), H * K};
    args.dq = {dq.bytes.data(), H * K}, args.dk = {dk.bytes.data(), G * K}, args.dv = {dv.bytes.data(), G * K};
    same_with_threads("attention_backward", {&dq, &dk, &dv}, target,
                      [&](const auto& p) { return target.kernels.attention_backward(p, args); });
  }
}

void linear_cross_entropy(const ryot::Target& target, bool bf16, long N, long D, long V) {
  for (bool extras : {false, true}) {
    ryot::LinearCrossEntropyArgs args = {};
    Array x(N * D, bf16), w(V * D, false), weights(N, false), losses(N, false), dx(N * D, bf16), dw(V * D, false);
    std::vector<int32_t> labels(N);
    for (long n = 0; n < N; ++n) labels[n] = static_cast<int32_t>(n % (V + 2)) - 1;  // ignored, and beyond, too
    args.rows = N, args.width = D, args.vocabulary = V, args.x = x.bytes.data(), args.w = w.floats();
    args.target = labels.data(), args.losses = losses.floats();
    if (extras) args.weights = weights.floats(), args.label_smoothing = 0.1f, args.z_loss = 0.01f, args.soft_cap = 2;
    same_with_threads("linear_cross_entropy loss", {&losses}, target,
                      [&](const auto& p) { return target.kernels.linear_cross_entropy(p, args); });
    args.dx = dx.bytes.data(), args.dw = dw.floats();
    same_with_threads("linear_cross_entropy", {&losses, &dx, &dw}, target,
                      [&](const auto& p) { return target.kernels.linear_cross_entropy(p, args); });
  }
}

void embedding(const ryot::Target& target, bool bf16, long N, long D, long V) {
  ryot::EmbeddingArgs args = {};
  Array dy(N * D, bf16), dtable(V * D, false);
  std::vector<int32_t> tokens(N);
  for (long n = 0; n < N; ++n) tokens[n] = static_cast<int32_t>(n * 7 % (V + 2)) - 1;
  args.rows = N, args.width = D, args.vocabulary = V, args.dy = dy.tensor(), args.tokens = tokens.data();
  args.dtable = dtable.floats();
  same_with_threads("embedding_backward", {&dtable}, target,
                    [&](const auto& p) { return target.kernels.embedding_backward(p, args); });
}

void adamw(const ryot::Target& target, std::vector<long> sizes, float clip_norm) {
  std::vector<Array> old, updated;
  std::vector<ryot::AdamWLeaf> leaves;
  for (long size : sizes) {
    for (int i = 0; i < 4; ++i) old.emplace_back(size, false);
    for (int i = 0; i < 3; ++i) updated.emplace_back(size, false);
  }
  for (size_t i = 0; i < sizes.size(); ++i)
    leaves.push_back({sizes[i], 0.1f, old[4 * i].floats(), old[4 * i + 1].floats(), old[4 * i + 2].floats(),
                      old[4 * i + 3].floats(), updated[3 * i].floats(), updated[3 * i + 1].floats(),
                      updated[3 * i + 2].floats()});
  Array norm(1, false);
  std::vector<Array*> outputs = {&norm};
  for (Array& array : updated) outputs.push_back(&array);
  const ryot::AdamWArgs args = {leaves.data(), static_cast<long>(leaves.size()), 0.5f, clip_norm, 0.01f, 0.9f, 0.95f,
                                1e-8f, 10.0f, 20.0f, norm.floats()};
  same_with_threads("adamw", outputs, target, [&](const auto& p) { return target.kernels.adamw(p, args); });
}

}  // namespace

#endif  // RYOT_TESTS_KERNELS_CPU_LAYERS_H_
