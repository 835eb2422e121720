// Runs every C++ kernel of this processor on odd and tiny sizes, with threads of its own, for the sanitizers to watch.
//
// Arrays are allocated at exactly their size, so that a read or write beyond one is found. Numbers are judged by the
// Python tests; here each result is only compared with that of one thread, which must be the same bits.
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "dispatch.h"
#include "pool.h"

namespace {

// As much of XLA's pool as the kernels use.
class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { loop(); });
  }
  ~Pool() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  long num_threads() const { return static_cast<long>(threads_.size()); }
  void Schedule(std::function<void()> task) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    wake_.notify_one();
  }

 private:
  void loop() {
    for (;;) {
      std::function<void()> task;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [this] { return stop_ || !tasks_.empty(); });
        if (tasks_.empty()) return;
        task = std::move(tasks_.front());
        tasks_.pop_front();
      }
      task();
    }
  }
  std::vector<std::thread> threads_;
  std::deque<std::function<void()>> tasks_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
};

std::mt19937 generator(0);

// An array of floats or bfloat16s; both start as random numbers around 1.
struct Array {
  std::vector<char> bytes;
  bool bfloat16;
  Array(long size, bool bf16) : bytes(size * (bf16 ? 2 : 4)), bfloat16(bf16) {
    std::normal_distribution<float> normal;
    for (long i = 0; i < size; ++i) {
      const float value = normal(generator);
      uint32_t bits;
      std::memcpy(&bits, &value, 4);
      const uint16_t high = static_cast<uint16_t>(bits >> 16);
      if (bf16) std::memcpy(&bytes[2 * i], &high, 2);
      else std::memcpy(&bytes[4 * i], &bits, 4);
    }
  }
  ryot::Tensor tensor() { return {bytes.data(), bfloat16}; }
  float* floats() { return reinterpret_cast<float*>(bytes.data()); }
};

int failures = 0;

// Runs `kernel` with 1 thread and with 3, and compares the outputs.
void same_with_threads(const char* name, std::vector<Array*> outputs,
                       const std::function<bool(const ryot::Parallel&)>& kernel) {
  std::vector<std::vector<char>> first;
  for (int threads : {1, 3}) {
    for (Array* output : outputs) std::fill(output->bytes.begin(), output->bytes.end(), static_cast<char>(0xff));
    Pool pool(threads);
    const bool done = kernel(ryot::PoolParallel<Pool>(pool));
    bool same = done;
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (threads == 1) first.push_back(outputs[i]->bytes);
      else same = same && first[i] == outputs[i]->bytes;
    }
    if (!same) {
      std::printf("%s: %s\n", name, done ? "another result with 3 threads" : "failed");
      ++failures;
    }
  }
}

void dense(const ryot::Kernels& kernels, bool bf16, long N, long K, long M) {
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
      same_with_threads("dense_forward", {&y}, [&](const auto& p) { return kernels.dense_forward(p, args); });
      Array dy(N * args.width(), bf16 && !extras);
      Array x_slopes(N * K, bf16);
      args.y = dy.tensor(), args.dx = dx.bytes.data(), args.dw = dw.floats();
      args.x_slopes = extras ? x_slopes.bytes.data() : nullptr;
      args.dbias = extras ? db.floats() : nullptr;
      std::vector<Array*> outputs = {&dx, &dw};
      if (extras) outputs.push_back(&db);
      same_with_threads("dense_backward", outputs, [&](const auto& p) { return kernels.dense_backward(p, args); });
    }
  }
}

// The dense kernels with a norm in front of them.
void norm_dense(const ryot::Kernels& kernels, bool bf16, long N, long K, long M) {
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
    same_with_threads("norm_dense_forward", {&y, &statistics},
                      [&](const auto& p) { return kernels.dense_forward(p, args); });
    Array dy(N * M, bf16), ds(N * K, bf16 && extras), dx(N * K, bf16 && extras), dscale(K, false), dshift(K, false);
    Array dw(K * M, false), db(M, false);
    norm.ds = extras ? ds.tensor() : ryot::Tensor{}, norm.dx = dx.tensor(), norm.dscale = dscale.floats();
    norm.dbias = extras ? dshift.floats() : nullptr;
    args.y = dy.tensor(), args.dw = dw.floats(), args.dbias = extras ? db.floats() : nullptr;
    std::vector<Array*> outputs = {&dx, &dscale, &dw};
    if (extras) outputs.insert(outputs.end(), {&dshift, &db});
    same_with_threads("norm_dense_backward", outputs, [&](const auto& p) { return kernels.dense_backward(p, args); });
  }
}

void norm(const ryot::Kernels& kernels, bool bf16, long N, long D) {
  for (bool extras : {false, true}) {
    ryot::NormArgs args = {};
    Array x(N * D, bf16), residual(N * D, false), scale(D, false), bias(D, false), y(N * D, bf16), s(N * D, false);
    Array statistics(2 * N, false), dy(N * D, bf16), ds(N * D, false), dx(N * D, false), dscale(D, false), db(D, false);
    args.rows = N, args.width = D, args.centre = extras, args.epsilon = 1e-5f;
    args.x = x.tensor(), args.scale = scale.floats(), args.bias = extras ? bias.floats() : nullptr;
    args.residual = extras ? residual.tensor() : ryot::Tensor{}, args.y = y.tensor(), args.s = s.tensor();
    args.statistics = statistics.floats();
    same_with_threads("norm_forward", {&y, &s, &statistics},
                      [&](const auto& p) { return kernels.norm_forward(p, args); });
    args.y = dy.tensor(), args.ds = extras ? ds.tensor() : ryot::Tensor{}, args.dx = dx.tensor();
    args.dscale = dscale.floats(), args.dbias = extras ? db.floats() : nullptr;
    std::vector<Array*> outputs = {&dx, &dscale};
    if (extras) outputs.push_back(&db);
    same_with_threads("norm_backward", outputs, [&](const auto& p) { return kernels.norm_backward(p, args); });
  }
}

void attention(const ryot::Kernels& kernels, bool bf16, long B, long T, long S, long H, long G, long K) {
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
    same_with_threads("attention_forward", {&o, &lse},
                      [&](const auto& p) { return kernels.attention_forward(p, args); });
    args.d_o = {d_o.bytes.data(), H * K};
    args.dq = {dq.bytes.data(), H * K}, args.dk = {dk.bytes.data(), G * K}, args.dv = {dv.bytes.data(), G * K};
    same_with_threads("attention_backward", {&dq, &dk, &dv},
                      [&](const auto& p) { return kernels.attention_backward(p, args); });
  }
}

void linear_cross_entropy(const ryot::Kernels& kernels, bool bf16, long N, long D, long V) {
  for (bool extras : {false, true}) {
    ryot::LinearCrossEntropyArgs args = {};
    Array x(N * D, bf16), w(V * D, false), weights(N, false), losses(N, false), dx(N * D, bf16), dw(V * D, false);
    std::vector<int32_t> target(N);
    for (long n = 0; n < N; ++n) target[n] = static_cast<int32_t>(n % (V + 2)) - 1;  // ignored, and beyond, too
    args.rows = N, args.width = D, args.vocabulary = V, args.x = x.bytes.data(), args.w = w.floats();
    args.target = target.data(), args.losses = losses.floats();
    if (extras) args.weights = weights.floats(), args.label_smoothing = 0.1f, args.z_loss = 0.01f, args.soft_cap = 2;
    same_with_threads("linear_cross_entropy loss", {&losses},
                      [&](const auto& p) { return kernels.linear_cross_entropy(p, args); });
    args.dx = dx.bytes.data(), args.dw = dw.floats();
    same_with_threads("linear_cross_entropy", {&losses, &dx, &dw},
                      [&](const auto& p) { return kernels.linear_cross_entropy(p, args); });
  }
}

void embedding(const ryot::Kernels& kernels, bool bf16, long N, long D, long V) {
  ryot::EmbeddingArgs args = {};
  Array dy(N * D, bf16), dtable(V * D, false);
  std::vector<int32_t> tokens(N);
  for (long n = 0; n < N; ++n) tokens[n] = static_cast<int32_t>(n * 7 % (V + 2)) - 1;
  args.rows = N, args.width = D, args.vocabulary = V, args.dy = dy.tensor(), args.tokens = tokens.data();
  args.dtable = dtable.floats();
  same_with_threads("embedding_backward", {&dtable},
                    [&](const auto& p) { return kernels.embedding_backward(p, args); });
}

void adamw(const ryot::Kernels& kernels, std::vector<long> sizes, float clip_norm) {
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
  same_with_threads("adamw", outputs, [&](const auto& p) { return kernels.adamw(p, args); });
}

void exercise(const ryot::Kernels& kernels, bool bf16) {
  for (long N : {0L, 1L, 13L, 97L, 230L})
    for (long K : {1L, 7L, 34L})
      for (long M : {1L, 2L, 33L, 64L}) dense(kernels, bf16, N, K, M);
  for (long N : {0L, 1L, 97L, 230L})
    for (long K : {1L, 7L, 34L}) norm_dense(kernels, bf16, N, K, 33);
  for (long N : {0L, 1L, 70L})
    for (long D : {1L, 15L, 16L, 37L}) norm(kernels, bf16, N, D);
  attention(kernels, bf16, 1, 1, 1, 1, 1, 1);
  attention(kernels, bf16, 2, 13, 13, 4, 2, 5);
  attention(kernels, bf16, 1, 31, 7, 2, 1, 17);
  attention(kernels, bf16, 1, 261, 261, 1, 1, 33);
  for (long N : {0L, 1L, 51L, 130L})
    for (long D : {1L, 33L})
      for (long V : {1L, 2L, 65L}) linear_cross_entropy(kernels, bf16, N, D, V);
  for (long N : {0L, 1L, 40L})
    for (long D : {1L, 70L}) embedding(kernels, bf16, N, D, 11);
  for (float clip_norm : {0.0f, 1.0f}) adamw(kernels, {1, 0, 17, 40000}, clip_norm);
}

}  // namespace

int main() {
  int kinds = 0;
  for (bool bf16 : {false, true})
    if (const ryot::Kernels* kernels = ryot::best_kernels(bf16)) {
      exercise(*kernels, bf16);
      ++kinds;
    }
#if defined(__x86_64__)
  // The processor has AVX-512, but others have AVX2 alone.
  if (ryot::best_kernels(false) == &ryot::kAvx512Kernels) exercise(ryot::kAvx2Kernels, false), ++kinds;
#endif
  std::printf("%d instruction sets, %d failures\n", kinds, failures);
  return failures ? 1 : 0;
}
