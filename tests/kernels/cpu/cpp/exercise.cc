// Runs every C++ kernel of this processor on odd and tiny sizes, with threads of its own, for the sanitizers to watch.
//
// Arrays are allocated at exactly their size, so that a read or write beyond one is found. Numbers are judged by the
// Python tests; here each result is only compared with that of one thread, which must be the same bits.
#include <algorithm>
#include <cmath>
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
#include "speculation.h"

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
  uint32_t* words() { return reinterpret_cast<uint32_t*>(bytes.data()); }
  int32_t* integers() { return reinterpret_cast<int32_t*>(bytes.data()); }
};

int failures = 0;

void require(bool holds, const char* what) {
  if (holds) return;
  std::printf("not so: %s\n", what);
  ++failures;
}

// Runs `kernel` with 1 thread and with 3, and compares the outputs, and what it updates, which starts as it is here.
void same_with_threads(const char* name, std::vector<Array*> outputs,
                       const std::function<bool(const ryot::Parallel&)>& kernel, std::vector<Array*> updated = {}) {
  std::vector<std::vector<char>> first, start;
  for (Array* array : updated) start.push_back(array->bytes);
  const size_t written = outputs.size();
  outputs.insert(outputs.end(), updated.begin(), updated.end());
  for (int threads : {1, 3}) {
    for (size_t i = 0; i < outputs.size(); ++i) {
      std::vector<char>& bytes = outputs[i]->bytes;
      if (i < written) std::fill(bytes.begin(), bytes.end(), static_cast<char>(0xff));
      else std::copy(start[i - written].begin(), start[i - written].end(), bytes.begin());
    }
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

// With up to four threads, groups of rows add up a gradient of small weights each; with more, it is one sum. Both are the
// same but for rounding.
void dense_in_groups(const ryot::Kernels& kernels, bool bf16, long N, long K, long M) {
  ryot::DenseArgs args = {};
  Array x(N * K, bf16), w(K * M, false), dy(N * M, bf16), dx(N * K, bf16), grouped(K * M, false), plain(K * M, false);
  args.rows = N, args.inputs = K, args.outputs = M, args.x = x.bytes.data(), args.w = w.floats();
  args.y = dy.tensor(), args.dx = dx.bytes.data();
  for (int threads : {4, 5}) {
    args.dw = (threads == 4 ? grouped : plain).floats();
    Pool pool(threads);
    require(kernels.dense_backward(ryot::PoolParallel<Pool>(pool), args), "dense_backward runs");
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

long divide_up(long a, long b) { return (a + b - 1) / b; }

long packed_words(const ryot::Kernels& kernels, long inputs, long outputs) {
  return divide_up(outputs, kernels.panel) * divide_up(inputs, kernels.group) * kernels.panel;
}

void pack_weights(const ryot::Kernels& kernels, long inputs, long outputs) {
  for (bool transposed : {false, true}) {
    Array w(inputs * outputs, false), packed(packed_words(kernels, inputs, outputs), false);
    const ryot::PackArgs args = {inputs, outputs, transposed, w.floats(), packed.words()};
    same_with_threads("pack_weights", {&packed}, [&](const auto& p) { return kernels.pack_weights(p, args); });
  }
}

// The sizes of a transformer.
struct Sizes {
  long width, heads, hidden, vocabulary;
};

// A transformer of random weights: all of them, or only those that cannot be absent.
class Transformer {
 public:
  static constexpr long kLayers = 2;

  Transformer(const ryot::Kernels& kernels, Sizes sizes, ryot::Activation activation, bool extras, bool rotary,
              long capacity)
      : kernels_(kernels) {
    const long D = sizes.width, F = sizes.hidden, V = sizes.vocabulary;
    const long up = activation == ryot::Activation::kSwiglu ? 2 * F : F;
    const auto bias = [&](long size) { return extras ? floats(size) : nullptr; };
    for (ryot::DecodeLayer& layer : layers_)
      layer = {floats(D),  bias(D),       packed(D, 3 * D), bias(3 * D),  packed(D, D), bias(D),
               floats(D),  bias(D),       packed(D, up),    bias(up),     packed(F, D), bias(D)};
    args_.num_layers = kLayers, args_.layers = layers_;
    args_.width = D, args_.heads = sizes.heads, args_.hidden = F, args_.vocabulary = V, args_.capacity = capacity;
    args_.centre = extras, args_.epsilon = 1e-5f, args_.activation = activation;
    args_.table = floats(V * D), args_.positions = extras ? floats(capacity * D) : nullptr;
    args_.rotations = rotary ? floats(capacity * (D / sizes.heads)) : nullptr;
    args_.final_scale = floats(D), args_.final_bias = bias(D), args_.head = packed(D, V);
  }
  Transformer(const Transformer&) = delete;

  const ryot::DecodeArgs& args() const { return args_; }

 private:
  float* floats(long size) {
    arrays_.emplace_back(size, false);
    return arrays_.back().floats();
  }
  uint32_t* packed(long inputs, long outputs) {
    Array w(inputs * outputs, false);
    uint32_t* const words = reinterpret_cast<uint32_t*>(floats(packed_words(kernels_, inputs, outputs)));
    Pool pool(1);
    kernels_.pack_weights(ryot::PoolParallel<Pool>(pool), {inputs, outputs, false, w.floats(), words});
    return words;
  }
  const ryot::Kernels& kernels_;
  std::deque<Array> arrays_;  // which keeps its elements where they are
  ryot::DecodeLayer layers_[kLayers];
  ryot::DecodeArgs args_ = {};
};

void decode_step(const ryot::Kernels& kernels, bool bf16, const Transformer& transformer, long batch, long steps) {
  ryot::DecodeArgs args = transformer.args();
  const long H = args.heads, K = args.width / H, V = args.vocabulary, T = args.capacity, group = kernels.group;
  args.batch = batch, args.steps = steps;
  // Up to the end of the cache; nothing; of an odd length; after nothing; the last position alone.
  const int32_t lengths[] = {static_cast<int32_t>(T - steps), 5, 3, 0, static_cast<int32_t>(T - 1)};
  const int32_t counts[] = {static_cast<int32_t>(steps), 0, static_cast<int32_t>(steps / 2 + 1),
                            static_cast<int32_t>(steps), 1};
  const std::vector<int32_t> length(lengths, lengths + batch), count(counts, counts + batch);
  std::vector<int32_t> tokens(batch * steps, -7);  // what does not count is not looked at
  for (long b = 0; b < batch; ++b)
    for (long i = 0; i < count[b]; ++i) tokens[b * steps + i] = static_cast<int32_t>(generator() % V);
  args.lengths = length.data(), args.counts = count.data(), args.tokens = tokens.data();
  const long texts = args.num_layers * batch * H;
  Array keys(texts * divide_up(K, group) * T * group, bf16), values(texts * (T / group) * K * group, bf16);
  args.keys = keys.words(), args.values = values.words();
  for (bool last_only : {false, true})
    for (bool with_logits : {false, true}) {
      const long outcomes = last_only ? 1 : steps;
      Array best(batch * outcomes, false), logits(batch * outcomes * V, false);
      args.last_only = last_only, args.best = best.integers(), args.logits = with_logits ? logits.floats() : nullptr;
      std::vector<Array*> outputs = {&best};
      if (with_logits) outputs.push_back(&logits);
      same_with_threads("decode_step", outputs, [&](const auto& p) { return kernels.decode_step(p, args); },
                        {&keys, &values});
      for (long b = 0; b < batch; ++b)
        for (long i = 0; i < (last_only ? count[b] > 0 : count[b]); ++i) {
          const int32_t token = best.integers()[b * outcomes + i];
          require(token >= 0 && token < V, "decode_step: the best is a token");
        }
    }
}

void decode_steps(const ryot::Kernels& kernels, bool bf16) {
  // Heads of an odd width; one of all; heads that can be turned; more than a panel and than a few vectors.
  for (Sizes sizes : {Sizes{15, 3, 7, 5}, Sizes{1, 1, 1, 1}, Sizes{24, 2, 21, 33}, Sizes{68, 2, 130, 70}})
    for (int activation = 1; activation <= 3; ++activation)
      for (bool extras : {false, true})
        for (long steps : {1L, 3L, 14L, 60L}) {  // 60: more than a chunk of rows
          const bool rotary = !extras && sizes.width / sizes.heads % 2 == 0;
          const long capacity = divide_up(steps + 4, 16) * 16;
          const Transformer transformer(kernels, sizes, static_cast<ryot::Activation>(activation), extras, rotary,
                                        capacity);
          for (long batch : {1L, 5L}) decode_step(kernels, bf16, transformer, batch, steps);
        }
}

// Texts of random tokens in the middle of speculative decoding, which takes any number of tokens a step.
class Texts {
 public:
  Texts(long batch, long steps, long vocabulary, long capacity)
      : S(steps), V(vocabulary), T(capacity), chosen(batch * S), limit(batch), stops({0}), chain(V * (S - 1)),
        pending(batch * S), count(batch, 1), ids(batch * T), known(batch), place(batch * V, -1), noted(batch, 1),
        drafted(batch), accepted(batch), thresholds(S - 1), checked(batch, 1.0f), right(batch, 0.5f), is_done(batch) {
    for (std::vector<int32_t>* tokens : {&chosen, &chain, &pending, &ids}) draw(*tokens);
    for (long b = 0; b < batch; ++b) {
      known[b] = 1 + static_cast<int32_t>(b % T);
      limit[b] = b == 1 ? known[b] : static_cast<int32_t>(T);  // one of them is as long as it may become
      pending[b * S] = ids[b * T + known[b] - 1];
    }
    for (long k = 0; k < S - 1; ++k) thresholds[k] = 0.1f + 0.1f * k;
  }

  ryot::RoundArgs args() {
    return {batch(),        S,           T,           V,           static_cast<long>(stops.size()),
            0.8f,           0.1f,        0.03f,       chosen.data(), limit.data(),
            stops.data(),   chain.data(), thresholds.data(), pending.data(), count.data(),
            ids.data(),     known.data(), is_done.data(), place.data(), noted.data(),
            checked.data(), right.data(), drafted.data(), accepted.data()};
  }
  long batch() const { return static_cast<long>(known.size()); }

  // What the model is to have chosen: of some texts what was drafted, of others anything.
  void choose() {
    draw(chosen);
    for (long b = 0; b < batch(); b += 2) std::copy_n(&pending[b * S + 1], S - 1, &chosen[b * S]);
  }

  long S, V, T;
  std::vector<int32_t> chosen, limit, stops, chain, pending, count, ids, known, place, noted, drafted, accepted;
  std::vector<float> thresholds, checked, right;
  std::vector<uint8_t> is_done;

 private:
  void draw(std::vector<int32_t>& tokens) {
    for (int32_t& token : tokens) token = static_cast<int32_t>(generator() % V);
  }
};

// What a round must keep of one text.
void check_round(const Texts& before, const Texts& after, long b) {
  const long S = after.S, V = after.V, T = after.T, known = after.known[b], fresh = known - before.known[b];
  const int32_t* const ids = &after.ids[b * T];
  const auto is_stop = [&](int32_t token) {
    return std::find(after.stops.begin(), after.stops.end(), token) != after.stops.end();
  };
  require(fresh >= 0 && known <= after.limit[b], "round: a text grows, up to its limit");
  require(fresh == 0 || !before.is_done[b], "round: a text that has ended stays as it is");
  require(fresh <= std::max(before.count[b], 1), "round: no more tokens than were checked, the model's own included");
  require(std::equal(ids, ids + before.known[b], &before.ids[b * T]), "round: what was known stays");
  require(std::equal(ids + before.known[b], ids + known, &before.chosen[b * S]), "round: what is new was chosen");
  bool stops = false;
  for (long i = 0; i < fresh; ++i) {
    require(!stops, "round: nothing follows a stop token");
    stops = is_stop(ids[before.known[b] + i]);
  }
  require(static_cast<bool>(after.is_done[b]) == (before.is_done[b] || stops || known == after.limit[b]),
          "round: a text ends by a stop token or by its limit");
  require((after.count[b] == 0) == static_cast<bool>(after.is_done[b]), "round: what has ended has nothing pending");
  require(after.count[b] <= S && known + after.count[b] <= after.limit[b] + (after.count[b] == 0),
          "round: what is drafted and the model's own token have room");
  require(after.pending[b * S] == ids[known - 1], "round: the last known token is pending");
  for (long i = 0; i < S; ++i)
    require(after.pending[b * S + i] >= 0 && after.pending[b * S + i] < V, "round: what is pending are tokens");
  require(after.accepted[b] - before.accepted[b] <= after.drafted[b] - before.drafted[b],
          "round: what is right was drafted");
  require(after.noted[b] == known, "round: all of the text is noted");
  for (long token = 0; token < V; ++token) {
    long last = known - 2;
    while (last >= 0 && ids[last] != token) --last;
    require(after.place[b * V + token] == last, "round: where a token last stood with another behind it");
  }
}

void rounds(long steps, long vocabulary, long capacity) {
  constexpr long kTexts = 5;
  Texts texts(kTexts, steps, vocabulary, capacity);
  // A text that goes on grows at each round; one more tells what becomes of those that have ended.
  for (long round = 0; round <= capacity; ++round) {
    texts.choose();
    const Texts before = texts;
    const ryot::RoundArgs args = texts.args();
    for (long b = 0; b < kTexts; ++b) {
      require(ryot::round_of_sequence(args, b), "round: the texts are valid");
      check_round(before, texts, b);
    }
  }
  require(std::all_of(texts.is_done.begin(), texts.is_done.end(), [](uint8_t done) { return done == 1; }),
          "round: every text ends");
}

// The first of some texts, changed, is refused, and nothing beyond an array is looked at for it.
void refuse(const char* what, const std::function<void(Texts&)>& change) {
  for (bool is_done : {false, true}) {
    Texts texts(1, 3, 7, 6);
    texts.known[0] = 3, texts.ids = {1, 2, 3, 4, 5, 6}, texts.chosen = {4, 5, 6}, texts.is_done[0] = is_done;
    require(ryot::round_of_sequence(Texts(texts).args(), 0), "round: valid but for the change");
    change(texts);
    require(!ryot::round_of_sequence(texts.args(), 0), what);
  }
}

void refused_rounds() {
  for (int32_t id : {-1, 7, 1 << 30}) {
    refuse("round: a text with an id that is no token", [=](Texts& texts) { texts.ids[1] = id; });
    refuse("round: a text that ends with an id that is no token", [=](Texts& texts) {
      texts.ids[2] = id, texts.limit[0] = 3;
    });
    refuse("round: a choice that is no token", [=](Texts& texts) { texts.chosen[0] = id, texts.is_done[0] = 0; });
  }
  for (int32_t known : {-1, 0, 7, 1 << 30})
    refuse("round: a text outside of its array", [=](Texts& texts) { texts.known[0] = known; });
  for (int32_t limit : {-1, 0, 2, 7})
    refuse("round: a limit below the text or outside of its array", [=](Texts& texts) { texts.limit[0] = limit; });
  refuse("round: more pending than there is room for", [](Texts& texts) { texts.count[0] = 4; });
  for (int32_t noted : {-1, 0})
    refuse("round: a first token that was not noted", [=](Texts& texts) { texts.noted[0] = noted; });
  refuse("round: a place behind the text", [](Texts& texts) {
    texts.place = std::vector<int32_t>(7, 5);
    texts.noted[0] = 6;
  });
}

void exercise(const ryot::Kernels& kernels, bool bf16) {
  for (long N : {0L, 1L, 13L, 97L, 230L})
    for (long K : {1L, 7L, 34L})
      for (long M : {1L, 2L, 33L, 64L}) dense(kernels, bf16, N, K, M);
  for (long N : {0L, 1L, 97L, 230L})
    for (long K : {1L, 7L, 34L}) norm_dense(kernels, bf16, N, K, 33);
  dense(kernels, bf16, 2301, 34, 33);  // rows for groups with a gradient of the weights each, of more than one chunk
  norm_dense(kernels, bf16, 2301, 34, 33);
  dense_in_groups(kernels, bf16, 2301, 34, 33);
  dense_in_groups(kernels, bf16, 2113, 34, 33);  // the last group's last chunk is empty
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
  for (long K : {1L, 34L, 71L})
    for (long M : {1L, 33L, 300L}) pack_weights(kernels, K, M);
  decode_steps(kernels, bf16);
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
  for (long steps : {2L, 3L, 7L})
    for (long vocabulary : {2L, 13L, 40L})
      for (long capacity : {1L, 5L, 64L}) rounds(steps, vocabulary, capacity);
  refused_rounds();
  std::printf("%d instruction sets, %d failures\n", kinds, failures);
  return failures ? 1 : 0;
}
