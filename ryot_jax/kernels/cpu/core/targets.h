// The targets that the library was built with, best first: the source of dispatch, names and error texts.
#ifndef RYOT_KERNELS_CPU_CORE_TARGETS_H_
#define RYOT_KERNELS_CPU_CORE_TARGETS_H_

#include "kernels.h"

namespace ryot {

// One set of kernels: see targets/. Targets register themselves when the library is loaded.
struct Target {
  const char* name;   // as in RYOT_CPU_ISA and Python
  const char* needs;  // requirements on the processor, as display text
  int level;          // of two targets the one with the higher level is used
  bool bfloat16;      // whether products take bfloat16 operands, or else float32
  bool (*supported)();  // by this processor and its system
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

// Restricts later calls to targets up to this level.
void cap_targets(int level);

// Whether this processor can run the target and it is not above the cap.
bool is_usable(const Target& target);

// The best usable target whose Scalar is bfloat16, or else float32; null if there is none.
const Target* best_target(bool bfloat16);

// The least requirements on the processor for these operands, as display text; "" if no target takes them.
const char* least_needs(bool bfloat16);

}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_TARGETS_H_
