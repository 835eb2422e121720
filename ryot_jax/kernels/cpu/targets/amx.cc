// AMX with tiles of bfloat16, and AVX-512 with BF16 for all but products.
// Compilers know AMX from GCC 11 and Clang 12 on; with an older one the library is built without it.
#if defined(__x86_64__) && defined(__linux__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RYOT_TARGET_ATTRIBUTE "amx-tile,amx-bf16,avx512bf16,avx512f,avx512vl,avx512bw,avx512dq,avx2,fma"
#define RYOT_LANES "lanes/avx512.h"
#define RYOT_SCALAR "scalar/bfloat16_avx512.h"
#define RYOT_MICRO_KERNEL "tile_kernel.h"
#define RYOT_TILES "tiles/amx.h"

namespace ryot {
namespace {

static void enter_tiles();
static void leave_tiles();

struct Traits {
  static constexpr char kName[] = "amx";
  static constexpr char kNeeds[] = "AMX-BF16 and AVX512-BF16";
  static constexpr int kLevel = 600;
  static constexpr long kVectorBytes = 64, kRegisters = 32;
  static constexpr long kTileRows = 16, kPanelVectors = 2;
  static constexpr void (*enter_worker)() = enter_tiles, (*leave_worker)() = leave_tiles;
  static const char* missing() {
    static const char* const lacks = [] {
      unsigned a, b, c, d = 0;
      constexpr unsigned kTile = 1u << 24, kBfloat16 = 1u << 22;
      const bool found = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kTile) && (d & kBfloat16) &&
                         __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                         __builtin_cpu_supports("avx512bf16");
      if (!found) return +kNeeds;
      // Linux gives a process the memory for tiles only once it has asked (from 5.16 on).
      constexpr long kRequestPermission = 0x1023, kTileData = 18;
      if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0) return static_cast<const char*>(nullptr);
      return "the system's permission to use AMX's tiles, which it refused (Linux 5.16 or later can give it)";
    }();
    return lacks;
  }
};

}  // namespace
}  // namespace ryot

#include "../core/begin_target.h"
#include "../core/end_target.h"

#endif
