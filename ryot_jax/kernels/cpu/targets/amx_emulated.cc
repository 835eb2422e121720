// The kernels for AMX with tiles in memory, to test them on every processor with AVX2: built where RYOT_EMULATE_AMX is
// defined, and used only where it is named.
#if defined(__x86_64__) && defined(RYOT_EMULATE_AMX)

#pragma GCC diagnostic ignored "-Wpsabi"  // vectors wider than registers stay within this file
#pragma GCC optimize("O1")  // for tests alone: half of the time of compiling

#define RYOT_TARGET_ATTRIBUTE "avx2,fma"
#define RYOT_LANES "lanes/plain_square_root.h"
#define RYOT_SCALAR "scalar/bfloat16_pairs.h"
#define RYOT_MICRO_KERNEL "tile_kernel.h"
#define RYOT_TILES "tiles/emulated.h"

namespace ryot {
namespace {

static void enter_tiles();
static void leave_tiles();

struct Traits {
  static constexpr char kName[] = "amx_emulated";
  static constexpr char kNeeds[] = "AVX2 and FMA";
  static constexpr int kLevel = 10'000;
  static constexpr long kVectorBytes = 64, kRegisters = 32;
  static constexpr long kTileRows = 16, kPanelVectors = 2;
  static constexpr void (*enter_worker)() = enter_tiles, (*leave_worker)() = leave_tiles;
  static const char* missing() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? nullptr : kNeeds;
  }
};

}  // namespace
}  // namespace ryot

#include "../core/begin_target.h"
#include "../core/end_target.h"

#endif
