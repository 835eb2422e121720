#include "targets.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <vector>

namespace ryot {
namespace {

const Target* first = nullptr;  // written while the library is loaded, before anything reads it
std::atomic<int> cap{kForTests - 1};

}  // namespace

TargetRegistration::TargetRegistration(Target& target) {
  const Target** place = &first;
  while (*place && (*place)->level > target.level) place = &const_cast<Target*>(*place)->next;
  target.next = *place;
  *place = &target;
}

const Target* all_targets() { return first; }

void cap_targets(int level) { cap = level; }

bool is_usable(const Target& target) { return target.level <= cap && !target.missing(); }

double product_rate(const Target& target) {
  static std::mutex measuring;
  const std::lock_guard<std::mutex> lock(measuring);
  if (*target.rate == 0) {
    struct Found {
      const Target* target;
      double rate;
    };
    std::vector<Found> found;
    for (const Target* other = first; other; other = other->next) {
      const bool is_for_all = other->level < kForTests && !other->missing() && *other->rate == 0;
      if (is_for_all || other == &target) found.push_back({other, 0});
    }
    // In rounds, the best of which counts: what others do on this machine lasts longer than one of them, and slows down
    // some of the targets, or all alike.
    for (int round = 0; round < 5; ++round)
      for (Found& one : found) one.rate = std::max(one.rate, one.target->measure_rate());
    for (const Found& one : found) *one.target->rate = one.rate;
  }
  return *target.rate;
}

const Target* best_target(bool bfloat16) {
  constexpr double kClearly = 1.4;  // beyond what busy neighbours do to the best of several rounds
  const Target* best = nullptr;
  for (const Target* target = first; target; target = target->next) {
    if (target->bfloat16 != bfloat16 || !is_usable(*target)) continue;
    if (target->level == cap) return target;  // asked for by name
    if (!best || product_rate(*target) > kClearly * product_rate(*best)) best = target;
  }
  return best;
}

const char* least_needs(bool bfloat16) {
  const char* needs = "";
  for (const Target* target = first; target; target = target->next)
    if (target->bfloat16 == bfloat16) needs = target->needs;
  return needs;
}

}  // namespace ryot
