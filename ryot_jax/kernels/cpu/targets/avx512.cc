// AVX-512 (F, VL, BW, DQ): 32 registers of 16 floats.
#if defined(__x86_64__)

#define RYOT_TARGET_ATTRIBUTE "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma"
#define RYOT_LANES "lanes/avx512.h"
#ifndef RYOT_SCALAR
#define RYOT_SCALAR "scalar/float32.h"
#endif
#define RYOT_MICRO_KERNEL "broadcast_kernel.h"

namespace ryot {
namespace {

struct Traits {
  static constexpr char kName[] = "avx512";
  static constexpr char kNeeds[] = "AVX-512 (F, VL, BW and DQ)";
  static constexpr int kLevel = 400;
  static constexpr long kVectorBytes = 64, kRegisters = 32;
  static constexpr long kTileRows = 12, kPanelVectors = 2;  // 24 of the 32 registers hold a tile of results
  static constexpr void (*enter_worker)() = nullptr, (*leave_worker)() = nullptr;
  static const char* missing() {
    const bool found = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                       __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
    return found ? nullptr : kNeeds;
  }
};

}  // namespace
}  // namespace ryot

#include "../core/begin_target.h"
#include "../core/end_target.h"

#endif  // __x86_64__
