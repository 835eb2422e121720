// NEON with BF16 (Armv8.6): products of two rows by two columns of bfloat16 (BFMMLA). Not yet timed on a processor.
// Compilers have its intrinsics within a file from GCC 10 and Clang 16 on; with an older one the library is built without it.
#if defined(__aarch64__) && (defined(__linux__) || defined(__APPLE__)) && \
    (defined(__clang__) ? __clang_major__ >= 16 : __GNUC__ >= 10)

#if defined(__linux__)
#include <sys/auxv.h>
#else
#include <sys/sysctl.h>
#endif

#if defined(__clang__)
#define RYOT_TARGET_ATTRIBUTE "bf16"
#else
#define RYOT_TARGET_ATTRIBUTE "arch=armv8.2-a+bf16"
#endif
#define RYOT_LANES "lanes/neon.h"
#define RYOT_SCALAR "scalar/bfloat16_pairs.h"
#define RYOT_MICRO_KERNEL "row_pair_kernel.h"

namespace ryot {
namespace {

struct Traits {
  static constexpr char kName[] = "neonbf16";
  static constexpr char kNeeds[] = "aarch64 with BF16";
  static constexpr int kLevel = 500;
  static constexpr long kVectorBytes = 16, kRegisters = 32;
  static constexpr long kTileRows = 4, kPanelVectors = 4;  // 16 blocks of results, 8 of columns, and the rows
  static constexpr void (*enter_worker)() = nullptr, (*leave_worker)() = nullptr;
  static const char* missing() {
#if defined(__linux__)
    constexpr unsigned long kBfloat16 = 1ul << 14;  // HWCAP2_BF16, which older headers lack
    const bool found = getauxval(AT_HWCAP2) & kBfloat16;
#else
    int found = 0;
    size_t size = sizeof found;
    if (sysctlbyname("hw.optional.arm.FEAT_BF16", &found, &size, nullptr, 0) != 0) found = 0;
#endif
    return found ? nullptr : kNeeds;
  }
};

}  // namespace
}  // namespace ryot

#include "../core/begin_target.h"
#include "../core/end_target.h"

#endif
