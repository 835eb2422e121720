#include "targets.h"

#include <atomic>

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
  double rate = target.rate->load();
  if (rate > 0) return rate;
  const double measured = target.measure_rate();
  // Of two first calls at once both return what one of them measured: the choice is the same for good.
  return target.rate->compare_exchange_strong(rate, measured) ? measured : rate;
}

const Target* best_target(bool bfloat16) {
  constexpr double kClearly = 1.4;  // beyond what busy neighbours do to the best of several runs
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
