// Outcome of a kernel. Kernels do not throw.
#ifndef RYOT_KERNELS_CPU_CORE_STATUS_H_
#define RYOT_KERNELS_CPU_CORE_STATUS_H_

namespace ryot {

enum class [[nodiscard]] Status {
  kDone,
  kNoMemory,  // for scratch; nothing was written
};

}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_STATUS_H_
