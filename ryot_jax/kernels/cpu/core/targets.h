// The targets that the library was built with, best first: the source of dispatch, names and error texts.
#ifndef RYOT_KERNELS_CPU_CORE_TARGETS_H_
#define RYOT_KERNELS_CPU_CORE_TARGETS_H_

#include <atomic>

#include "kernels.h"

namespace ryot {

// One set of kernels: see targets/. Targets register themselves when the library is loaded.
struct Target {
  const char* name;   // as in RYOT_CPU_ISA and Python
  const char* needs;  // requirements on the processor, as display text
  int level;          // of two targets that are about as fast the one with the higher level is used
  bool bfloat16;      // whether arrays are bfloat16, or else float32
  const char* (*missing)();  // what this processor or system lacks, as display text; null: nothing
  double (*measure_rate)();  // FLOP/s of its products on this thread; only where nothing is missing
  std::atomic<double>* rate;  // the best of what it returned; 0: not called yet
  WorkerHooks hooks;
  Kernels kernels;
  long panel, group;  // columns per panel, and scalars per word, of packed weights
  const Target* next;
};

class TargetRegistration {
 public:
  explicit TargetRegistration(Target& target);
};

// The head of the list.
const Target* all_targets();

// Targets from this level on are for tests: they are used only under a cap that includes them.
constexpr int kForTests = 10'000;

// Restricts later calls to targets up to this level; without a call, to those below kForTests.
void cap_targets(int level);

// Whether this processor can run the target and it is not above the cap.
bool is_usable(const Target& target);

// FLOP/s of a thread's products with a target that nothing is missing for; the first call measures all such targets.
double product_rate(const Target& target);

// The best usable target whose Scalar is bfloat16, or else float32; null if there is none. That at the cap, if there is
// one; of several below it, the order of levels holds but for one whose products are clearly faster here: what an
// instruction set is for, it need not do fast.
const Target* best_target(bool bfloat16);

// The least requirements on the processor for arrays of this type, as display text; "" if no target takes them.
const char* least_needs(bool bfloat16);

}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_TARGETS_H_
