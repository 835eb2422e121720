// AVX-512 with BF16: products of bfloat16 pairs, summed in float32.
#if defined(__x86_64__)

#define RYOT_TARGET_ATTRIBUTE "avx512bf16,avx512f,avx512vl,avx512bw,avx512dq,avx2,fma"
#define RYOT_LANES "lanes/avx512.h"
#define RYOT_SCALAR "scalar/bfloat16_avx512.h"
#define RYOT_MICRO_KERNEL "broadcast_kernel.h"

namespace ryot {
namespace {

struct Traits {
  static constexpr char kName[] = "avx512bf16";
  static constexpr char kNeeds[] = "AVX512-BF16";
  static constexpr int kLevel = 500;
  static constexpr long kVectorBytes = 64, kRegisters = 32;
  static constexpr long kTileRows = 12, kPanelVectors = 2;  // 24 of the 32 registers hold a tile of results
  static constexpr void (*enter_worker)() = nullptr, (*leave_worker)() = nullptr;
  static const char* missing() {
    const bool found = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                       __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                       __builtin_cpu_supports("avx512bf16");
    return found ? nullptr : kNeeds;
  }
};

}  // namespace
}  // namespace ryot

#include "../core/begin_target.h"
#include "../core/end_target.h"

#endif  // __x86_64__
