// The targets that the library was built with, best first: what dispatch, names and error texts are made from.
#ifndef RYOT_KERNELS_CPU_CORE_TARGETS_H_
#define RYOT_KERNELS_CPU_CORE_TARGETS_H_

#include "kernels.h"

namespace ryot {

// One set of kernels: see targets/. They list themselves when the library is loaded.
struct Target {
  const char* name;   // as RYOT_CPU_ISA and Python have it
  const char* needs;  // of a processor, in words
  int level;          // of two targets the one of the higher level is taken
  bool bfloat16;      // whether products take bfloat16 operands, or else float32
  bool (*supported)();  // by this processor and its system
  WorkerHooks hooks;
  Kernels kernels;
  long panel, group;  // columns of a panel, and scalars of a word, of packed weights
  const Target* next;
};

class TargetRegistration {
 public:
  explicit TargetRegistration(Target& target);
};

// The first of the list.
const Target* all_targets();

// From here on only targets up to this level are taken.
void cap_targets(int level);

// Whether this processor runs it and it is not above the cap.
bool is_usable(const Target& target);

// The best usable target whose Scalar is bfloat16, or else float32; null where there is none.
const Target* best_target(bool bfloat16);

// Of a processor, what it takes at least for these operands, in words; "" where no target takes them.
const char* least_needs(bool bfloat16);

}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_TARGETS_H_
