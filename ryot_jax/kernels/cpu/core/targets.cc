#include "targets.h"

#include <atomic>
#include <climits>

namespace ryot {
namespace {

const Target* first = nullptr;  // written while the library is loaded, before anything reads it
std::atomic<int> cap{INT_MAX};

}  // namespace

TargetRegistration::TargetRegistration(Target& target) {
  const Target** place = &first;
  while (*place && (*place)->level > target.level) place = &const_cast<Target*>(*place)->next;
  target.next = *place;
  *place = &target;
}

const Target* all_targets() { return first; }

void cap_targets(int level) { cap = level; }

bool is_usable(const Target& target) { return target.level <= cap && target.supported(); }

const Target* best_target(bool bfloat16) {
  const Target* target = first;
  while (target && (target->bfloat16 != bfloat16 || !is_usable(*target))) target = target->next;
  return target;
}

const char* least_needs(bool bfloat16) {
  const char* needs = "";
  for (const Target* target = first; target; target = target->next)
    if (target->bfloat16 == bfloat16) needs = target->needs;
  return needs;
}

}  // namespace ryot
