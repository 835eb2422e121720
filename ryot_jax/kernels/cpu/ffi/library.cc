// The functions of the library that Python calls.
#include <string>

#include "../core/cache_sizes.h"
#include "../core/pool.h"
#include "../core/targets.h"
#include "table.h"

namespace ryot {
namespace {

const Handler* first = nullptr;  // written while the library is loaded, before anything reads it

}  // namespace

HandlerRegistration::HandlerRegistration(Handler& handler) {
  const Handler** place = &first;
  while (*place && std::string(handler.name) > (*place)->name) place = &const_cast<Handler*>(*place)->next;
  handler.next = *place;
  *place = &handler;
}

const Handler* all_handlers() { return first; }

}  // namespace ryot

#pragma GCC visibility push(default)

// The i-th handler by name, or null after the last one.
extern "C" const ryot::Handler* ryot_handler(int i) {
  const ryot::Handler* handler = ryot::all_handlers();
  while (handler && i-- > 0) handler = handler->next;
  return handler;
}

// The i-th target, best first, or null after the last one. Python reads the fields before `hooks`.
extern "C" const ryot::Target* ryot_target(int i) {
  const ryot::Target* target = ryot::all_targets();
  while (target && i-- > 0) target = target->next;
  return target;
}

// What this processor or system lacks for the target, as display text, or null.
extern "C" const char* ryot_missing(const ryot::Target* target) { return target->missing(); }

// FLOP/s of a thread's products with a target that nothing is missing for.
extern "C" double ryot_product_rate(const ryot::Target* target) { return ryot::product_rate(*target); }

// The level from which on targets are for tests.
extern "C" int ryot_for_tests() { return ryot::kForTests; }

extern "C" void ryot_limit_workers(long most) { ryot::worker_limit() = most; }

extern "C" void ryot_cap_targets(int level) { ryot::cap_targets(level); }
extern "C" int ryot_is_usable(const ryot::Target* target) { return ryot::is_usable(*target); }

// The target for arrays of bfloat16 (1) or float32 (0), or null.
extern "C" const ryot::Target* ryot_best_target(int bfloat16) { return ryot::best_target(bfloat16 != 0); }
// The requirements of such a target on the processor, as display text.
extern "C" const char* ryot_least_needs(int bfloat16) { return ryot::least_needs(bfloat16 != 0); }

// Columns per panel (0) or scalars per word (1) of weights packed for that target, which has to exist.
extern "C" int ryot_packing(int bfloat16, int what) {
  const ryot::Target* target = ryot::best_target(bfloat16 != 0);
  return static_cast<int>(what ? target->group : target->panel);
}

// Bytes of a core's data cache of this level, 1 or 2.
extern "C" long ryot_cache_size(int level) {
  return level == 1 ? ryot::cache_sizes().first_level : ryot::cache_sizes().second_level;
}

#pragma GCC visibility pop
