// The kernels of decoding.
#ifndef RYOT_TESTS_KERNELS_CPU_DECODING_H_
#define RYOT_TESTS_KERNELS_CPU_DECODING_H_

#include "support.h"

namespace {

long divide_up(long a, long b) { return (a + b - 1) / b; }

long packed_words(const ryot::Target& target, long inputs, long outputs) {
  return divide_up(outputs, target.panel) * divide_up(inputs, target.group) * target.panel;
}

void pack_weights(const ryot::Target& target, long inputs, long outputs) {
  for (bool transposed : {false, true}) {
    Array w(inputs * outputs, false), packed(packed_words(target, inputs, outputs), false);
    const ryot::PackArgs args = {inputs, outputs, transposed, w.floats(), packed.words()};
    same_with_threads("pack_weights", {&packed}, target, [&](const auto& p) { return target.kernels.pack_weights(p, args); });
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

  Transformer(const ryot::Target& target, Sizes sizes, ryot::Activation activation, bool extras, bool rotary,
              long capacity)
      : target_(target) {
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
    uint32_t* const words = reinterpret_cast<uint32_t*>(floats(packed_words(target_, inputs, outputs)));
    Pool pool(1);
    require(is_done(target_.kernels.pack_weights(ryot::PoolParallel<Pool>(pool, target_.hooks),
                                                 {inputs, outputs, false, w.floats(), words})),
            "pack_weights runs");
    return words;
  }
  const ryot::Target& target_;
  std::deque<Array> arrays_;  // which keeps its elements where they are
  ryot::DecodeLayer layers_[kLayers];
  ryot::DecodeArgs args_ = {};
};

void decode_step(const ryot::Target& target, bool bf16, const Transformer& transformer, long batch, long steps) {
  ryot::DecodeArgs args = transformer.args();
  const long H = args.heads, K = args.width / H, V = args.vocabulary, T = args.capacity, group = target.group;
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
  const bool pairs = group == 2;  // words of two bfloat16, or else of one float32
  Array keys(texts * divide_up(K, group) * T * group, pairs), values(texts * (T / group) * K * group, pairs);
  args.keys = keys.words(), args.values = values.words();
  for (bool last_only : {false, true})
    for (bool with_logits : {false, true}) {
      const long outcomes = last_only ? 1 : steps;
      Array best(batch * outcomes, false), logits(batch * outcomes * V, false);
      args.last_only = last_only, args.best = best.integers(), args.logits = with_logits ? logits.floats() : nullptr;
      std::vector<Array*> outputs = {&best};
      if (with_logits) outputs.push_back(&logits);
      same_with_threads("decode_step", outputs, target, [&](const auto& p) { return target.kernels.decode_step(p, args); },
                        {&keys, &values});
      for (long b = 0; b < batch; ++b)
        for (long i = 0; i < (last_only ? count[b] > 0 : count[b]); ++i) {
          const int32_t token = best.integers()[b * outcomes + i];
          require(token >= 0 && token < V, "decode_step: the best is a token");
        }
    }
}

// A few of the steps below, for an emulator.
void decode_few_steps(const ryot::Target& target, bool bf16) {
  const Transformer transformer(target, {68, 2, 130, 70}, ryot::Activation::kGelu, true, false, 64);
  for (long steps : {3L, 60L}) decode_step(target, bf16, transformer, 1, steps);
}

void decode_steps(const ryot::Target& target, bool bf16) {
  // Heads of an odd width; one of all; heads that can be turned; more than a panel and than a few vectors.
  for (Sizes sizes : {Sizes{15, 3, 7, 5}, Sizes{1, 1, 1, 1}, Sizes{24, 2, 21, 33}, Sizes{68, 2, 130, 70}})
    for (int activation = 1; activation <= 3; ++activation)
      for (bool extras : {false, true})
        for (long steps : {1L, 3L, 14L, 60L}) {  // 60: more than a chunk of rows
          const bool rotary = !extras && sizes.width / sizes.heads % 2 == 0;
          const long capacity = divide_up(steps + 4, 16) * 16;
          const Transformer transformer(target, sizes, static_cast<ryot::Activation>(activation), extras, rotary,
                                        capacity);
          for (long batch : {1L, 5L}) decode_step(target, bf16, transformer, batch, steps);
        }
}

}  // namespace

#endif  // RYOT_TESTS_KERNELS_CPU_DECODING_H_
