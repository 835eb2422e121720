// The bookkeeping between two steps of speculative decoding with a lookup draft: the correct tokens, the known text,
// and the next draft. It handles a few integers per sequence, but as XLA operations would take a quarter as long as the
// step.
#ifndef RYOT_KERNELS_CPU_OPS_SPECULATION_H_
#define RYOT_KERNELS_CPU_OPS_SPECULATION_H_

#include <algorithm>
#include <cstdint>

namespace ryot {

struct RoundArgs {
  long batch, steps, capacity, vocabulary, num_stops;
  float memory, checked_bonus, right_bonus;  // of the running counts of checked and of correct tokens
  const int32_t* chosen;    // [batch, steps], the model's choice after each pending token
  const int32_t* limit;     // [batch], tokens of the whole text
  const int32_t* stops;     // [num_stops]
  const int32_t* chain;     // [vocabulary, steps - 1], guesses after a token that is new in its text
  const float* thresholds;  // [steps - 1], the acceptance rate from which one more token is checked
  // Read and written:
  int32_t* pending;         // [batch, steps], the last known token and guesses
  int32_t* count;           // [batch], pending tokens that were, or are to be, checked; 0 for a finished text
  int32_t* ids;             // [batch, capacity], the texts
  int32_t* known;           // [batch], their lengths
  uint8_t* is_done;         // [batch]
  int32_t* place;           // [batch, vocabulary], last position of each token that has a successor, or -1
  int32_t* noted;           // [batch], tokens of the text that `place` covers
  float *checked, *right;   // [batch]
  int32_t *drafted, *accepted;  // [batch]
};

// Updates one sequence; false if an id lies outside the vocabulary or a text outside its array.
inline bool round_of_sequence(const RoundArgs& args, long b) {
  const long S = args.steps, K = S - 1;
  const int32_t* const chosen = args.chosen + b * S;
  int32_t* const pending = args.pending + b * S;
  int32_t* const ids = args.ids + b * args.capacity;
  int32_t* const place = args.place + b * args.vocabulary;
  const auto is_token = [&](int32_t token) { return token >= 0 && token < args.vocabulary; };
  long known = args.known[b];
  const long room = args.limit[b] - known;
  if (known < 1 || room < 0 || args.limit[b] > args.capacity || args.count[b] > S || args.noted[b] < 1) return false;

  const long drafted = std::max<long>(args.count[b] - 1, 0);
  long right = 0;
  while (right < drafted && pending[right + 1] == chosen[right]) ++right;
  args.checked[b] = args.memory * args.checked[b] + (args.checked_bonus + std::min(right + 1, drafted));
  args.right[b] = args.memory * args.right[b] + (args.right_bonus + right);
  args.drafted[b] += drafted;
  args.accepted[b] += right;

  long fresh = args.is_done[b] ? 0 : std::min(right + 1, room);
  bool stops = false;
  for (long i = 0; i < fresh && !stops; ++i) {
    if (!is_token(chosen[i])) return false;
    ids[known + i] = chosen[i];
    stops = std::find(args.stops, args.stops + args.num_stops, chosen[i]) != args.stops + args.num_stops;
    if (stops) fresh = i + 1;
  }
  known += fresh;
  args.known[b] = known;
  args.is_done[b] = args.is_done[b] || stops || fresh == room;

  for (long end = args.noted[b] - 1; end < known - 1; ++end) {
    if (!is_token(ids[end])) return false;
    place[ids[end]] = end;
  }
  args.noted[b] = known;
  const long end = known - 1;
  const int32_t last = ids[end];
  if (!is_token(last)) return false;
  pending[0] = last;
  const long at = place[last];
  if (at >= end) return false;
  for (long j = 0; j < K; ++j) pending[1 + j] = at >= 0 ? ids[at + 1 + j % (end - at)] : args.chain[last * K + j];
  long wanted = 0;
  while (wanted < K && args.right[b] / args.checked[b] > args.thresholds[wanted]) ++wanted;
  args.count[b] = args.is_done[b] ? 0 : 1 + std::min(wanted, args.limit[b] - known - 1);
  return true;
}

}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_OPS_SPECULATION_H_
