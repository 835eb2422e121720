// AVX2 with FMA: 16 registers of 8 floats.
#if defined(__x86_64__)

#define RYOT_TARGET_ATTRIBUTE "avx2,fma"
#define RYOT_LANES "lanes/avx2.h"
#ifndef RYOT_SCALAR
#define RYOT_SCALAR "scalar/float32.h"
#endif
#define RYOT_MICRO_KERNEL "broadcast_kernel.h"

namespace ryot {
namespace {

struct Traits {
  static constexpr char kName[] = "avx2";
  static constexpr char kNeeds[] = "AVX2 and FMA";
  static constexpr int kLevel = 200;
  static constexpr long kVectorBytes = 32, kRegisters = 16;
  static constexpr long kTileRows = 6, kPanelVectors = 2;  // 12 of the 16 registers hold a tile of results
  static constexpr void (*enter_worker)() = nullptr, (*leave_worker)() = nullptr;
  static const char* missing() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? nullptr : kNeeds;
  }
};

}  // namespace
}  // namespace ryot

#include "../core/begin_target.h"
#include "../core/end_target.h"

#endif  // __x86_64__
