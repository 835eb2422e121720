// Rounds of speculative decoding on texts of random tokens.
#ifndef RYOT_TESTS_KERNELS_CPU_ROUNDS_H_
#define RYOT_TESTS_KERNELS_CPU_ROUNDS_H_

#include <algorithm>

#include "ops/speculation.h"
#include "support.h"

namespace {

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

}  // namespace

#endif  // RYOT_TESTS_KERNELS_CPU_ROUNDS_H_
