// Handlers of decoding, speculative rounds included.
#include <algorithm>
#include <utility>
#include <vector>

#include "../ops/speculation.h"
#include "handlers.h"

namespace ryot {
namespace {

// Packed weights of `inputs` by `outputs`: [ceil(outputs / panel), ceil(inputs / group), panel] words.
void check_packed_weights(Check& check, const Words& packed, long inputs, long outputs, const Target& target) {
  check.shape(packed,
              {(outputs + target.panel - 1) / target.panel, (inputs + target.group - 1) / target.group, target.panel},
              "weights packed for this processor, of the model's sizes");
}

ffi::Error pack_weights(ffi::ThreadPool pool, Floats w, ffi::Result<Words> packed, int64_t transposed,
                        int64_t bfloat16) {
  Check check("pack_weights");
  const Target* target = best_target(bfloat16 != 0);
  check.require(w.dimensions().size() == 2, "w[K,N]");
  check.require(target != nullptr, "a processor that has the instructions");
  if (!check.ok()) return check.error();
  PackArgs args = {};
  args.transposed = transposed != 0;
  args.inputs = w.dimensions()[args.transposed], args.outputs = w.dimensions()[!args.transposed];
  args.w = w.typed_data(), args.packed = packed->typed_data();
  check_packed_weights(check, *packed, args.inputs, args.outputs, *target);
  return launch(pool, bfloat16 ? ffi::BF16 : ffi::F32, check, &Kernels::pack_weights, args);
}

// Reads the weights of a step, one after the other.
class WeightReader {
 public:
  WeightReader(Check& check, const ffi::RemainingArgs& weights, const Target& target)
      : check_(check), weights_(weights), target_(target) {}

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
  // Reads [P, width] or null; lowers `limit` to P if that is smaller.
  const float* of_positions(long width, long& limit, const char* rule) { return read<Floats>([&](const Floats& array) {
      const auto dims = array.dimensions();
      if (absent(array)) return static_cast<float*>(nullptr);
      check_.require(dims.size() == 2 && dims[1] == width, rule);
      if (check_.ok() && dims[0] < limit) limit = dims[0];
      return array.typed_data();
    });
  }
  const uint32_t* packed(long inputs, long outputs) { return read<Words>([&](const Words& array) {
      check_packed_weights(check_, array, inputs, outputs, target_);
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
  const Target& target_;
  size_t next_ = 0;
};

// The order of the weights: the embedding table, positions, rotations, the final norm's scale and bias and the head,
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

// The caches are updated in place: XLA must be told that the results `keys` and `values` alias them.
ffi::Error decode_step(ffi::ThreadPool pool, Integers tokens, Integers lengths, Integers counts, Words old_keys,
                       Words old_values, ffi::RemainingArgs weights, ffi::Result<Words> keys, ffi::Result<Words> values,
                       IntegersOut best, FloatsOut logits, int64_t hidden, int64_t head_width, int64_t activation,
                       int64_t centre, int64_t bfloat16, float epsilon) {
  Check check("decode_step");
  const char* caches = "caches k[L,B,H,K/g,T] and v[L,B,H,T/g,K] of words, written in place, T a multiple of 16";
  const ffi::DataType scalar = bfloat16 ? ffi::BF16 : ffi::F32;
  const Target* target = best_target(bfloat16 != 0);
  check.require(target != nullptr, "a processor that has the instructions");
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
  check.shape(*keys, {d[0], d[1], d[2], (head_width + target->group - 1) / target->group, d[4]}, caches);
  check.shape(*values, {d[0], d[1], d[2], d[4] / target->group, head_width}, caches);
  check.require(best->dimensions().size() == 2, "best[B,S] or [B,1]");
  if (!check.ok()) return check.error();
  const long outcomes = best->dimensions()[1];
  args.last_only = outcomes < args.steps;
  check.shape(*best, {args.batch, args.last_only ? 1 : args.steps}, "best[B,S] or [B,1]");
  check.shape_or_absent(*logits, {args.batch, outcomes, args.vocabulary}, "logits[B,S,V] or [B,1,V]");
  if (!check.ok()) return check.error();

  std::vector<DecodeLayer> layers(static_cast<size_t>(args.num_layers));
  WeightReader reader(check, weights, *target);
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
    for (long i = used; check.ok() && i < outcomes; ++i) {  // entries that are not computed are defined too
      args.best[b * outcomes + i] = 0;
      if (args.logits) std::fill_n(args.logits + (b * outcomes + i) * vocabulary, vocabulary, 0.0f);
    }
  }
  return launch(pool, scalar, check, &Kernels::decode_step, args);
}

// The state of speculative decoding: arrays that change are both operands and results, in the order in which they are
// read here.
class SpeculationState {
 public:
  SpeculationState(Check& check, const ffi::RemainingArgs& before, const ffi::RemainingRets& after)
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
  SpeculationState state(check, before, after);
  args.ids = state.next<ffi::S32>({B, args.capacity}, "ids[B,T]");
  args.known = state.next<ffi::S32>({B}, "known[B]");
  args.pending = state.next<ffi::S32>({B, args.steps}, "pending[B,1+K]");
  args.count = state.next<ffi::S32>({B}, "count[B]");
  args.is_done = reinterpret_cast<uint8_t*>(state.next<ffi::PRED>({B}, "is_done[B]"));
  args.place = state.next<ffi::S32>({B, args.vocabulary}, "place[B,V]");
  args.noted = state.next<ffi::S32>({B}, "noted[B]");
  args.checked = state.next<ffi::F32>({B}, "checked[B]");
  args.right = state.next<ffi::F32>({B}, "right[B]");
  args.drafted = state.next<ffi::S32>({B}, "drafted[B]");
  args.accepted = state.next<ffi::S32>({B}, "accepted[B]");
  for (long b = 0; check.ok() && b < B; ++b)
    check.require(round_of_sequence(args, b), "texts within their arrays, of tokens of the vocabulary");
  return check.ok() ? ffi::Error::Success() : check.error();
}

}  // namespace
}  // namespace ryot

RYOT_HANDLER(pack_weights,
             "w -> packed | transposed bfloat16");
RYOT_HANDLER(decode_step,
             "tokens lengths counts keys values weights... -> keys values best logits | hidden head_width activation centre bfloat16 epsilon");
RYOT_HANDLER(speculation_round,
             "chosen limit stops chain thresholds before... -> after... | memory checked_bonus right_bonus");
