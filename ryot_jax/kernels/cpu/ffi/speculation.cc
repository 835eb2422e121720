// The handler of a round of speculative decoding.
#include <algorithm>

#include "../ops/speculation.h"
#include "handlers.h"

namespace ryot {
namespace {

// The state of speculative decoding: arrays that change are operands as well as results, in the order in which they are
// taken here.
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

RYOT_HANDLER(speculation_round,
             "chosen limit stops chain thresholds before... -> after... | memory checked_bonus right_bonus");
