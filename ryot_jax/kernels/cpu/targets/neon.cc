// NEON (Advanced SIMD of aarch64): 32 registers of 4 floats. Not yet timed on a processor.
#if defined(__aarch64__)

#if defined(__clang__)
#define RYOT_TARGET_ATTRIBUTE "neon"
#else
#define RYOT_TARGET_ATTRIBUTE "+simd"
#endif
#define RYOT_LANES "lanes/neon.h"
#ifndef RYOT_SCALAR
#define RYOT_SCALAR "scalar/float32.h"
#endif
#define RYOT_MICRO_KERNEL "broadcast_kernel.h"

namespace ryot {
namespace {

struct Traits {
  static constexpr char kName[] = "neon";
  static constexpr char kNeeds[] = "aarch64";
  static constexpr int kLevel = 200;
  static constexpr long kVectorBytes = 16, kRegisters = 32;
  static constexpr long kTileRows = 6, kPanelVectors = 4;  // 24 of the 32 registers hold a tile of results
  static constexpr void (*enter_worker)() = nullptr, (*leave_worker)() = nullptr;
  static const char* missing() { return nullptr; }
};

}  // namespace
}  // namespace ryot

#include "../core/begin_target.h"
#include "../core/end_target.h"

#endif  // __aarch64__
