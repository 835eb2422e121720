// Prefetching of memory.
#ifndef RYOT_KERNELS_CPU_CORE_PREFETCH_H_
#define RYOT_KERNELS_CPU_CORE_PREFETCH_H_

#include "panels.h"

namespace ryot {
namespace {

// Prefetches kPanel elements of an array, which the epilogue of the tile being multiplied will need: otherwise it would
// wait for each line in turn if the array comes from memory.
template <bool kWrite, typename Number>
RYOT_INLINE void prefetch_panel(const Number* p) {
  for (long i = 0; i < kPanel; i += 64 / static_cast<long>(sizeof(Number))) __builtin_prefetch(p + i, kWrite, 3);
}

// Prefetches the data of a worker's next task, a few lines at a time while the present task computes.
class Prefetcher {
 public:
  // `calls`: number of times that `advance` will be called.
  explicit Prefetcher(long calls) : calls_(larger(calls, 1)) {}
  void add(const void* start, long bytes) {
    at_[ranges_] = static_cast<const char*>(start), end_[ranges_] = at_[ranges_] + bytes;
    ranges_ += bytes > 0;
    lines_ += divide_up(bytes, 64);
    lines_of_call_ = divide_up(lines_, calls_);
  }
  inline RYOT_ALWAYS_INLINE void advance() {
    for (long i = 0; i < lines_of_call_ && current_ < ranges_; ++i) {
      __builtin_prefetch(at_[current_], 0, 2);
      at_[current_] += 64;
      current_ += at_[current_] >= end_[current_];
    }
  }

 private:
  const char *at_[2], *end_[2];
  long calls_, ranges_ = 0, lines_ = 0, lines_of_call_ = 0, current_ = 0;
};

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_PREFETCH_H_
