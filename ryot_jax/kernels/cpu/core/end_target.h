// Compiles every op for the open target, closes it, and registers it. Included last in a target's file.
#ifndef RYOT_TRAITS_ONLY  // see core/target.h
#ifndef RYOT_KERNELS_CPU_CORE_END_TARGET_H_
#define RYOT_KERNELS_CPU_CORE_END_TARGET_H_

#include "../ops/all.h"
#include "rate.h"

RYOT_CLOSE_TARGET

// The code below is compiled without the target's instructions: it runs when the library is loaded, on any processor.
namespace ryot {
namespace {

std::atomic<double> rate{0};

constexpr Target describe_target() {
  Target target = {};
  target.name = Traits::kName, target.needs = Traits::kNeeds, target.level = Traits::kLevel;
  target.bfloat16 = kScalarIsBfloat16, target.missing = Traits::missing;
  target.measure_rate = measure_product_rate, target.rate = &rate;
  target.hooks = {Traits::enter_worker, Traits::leave_worker};
  target.panel = kPanel, target.group = kGroup;
#define RYOT_FILL_IN(name, Args) target.kernels.name = name;
  RYOT_FOR_EACH_KERNEL(RYOT_FILL_IN)
#undef RYOT_FILL_IN
  return target;
}

Target this_target = describe_target();
const TargetRegistration registration(this_target);

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_END_TARGET_H_
#endif  // RYOT_TRAITS_ONLY
