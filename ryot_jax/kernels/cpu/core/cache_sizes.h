// The processor's cache sizes, and the block sizes that follow from them.
#ifndef RYOT_KERNELS_CPU_CORE_CACHE_SIZES_H_
#define RYOT_KERNELS_CPU_CORE_CACHE_SIZES_H_

namespace ryot {

struct CacheSizes {
  long first_level, second_level;  // bytes of data cache per core
};

// Block sizes decide the order of sums, and so the last bits of results: they are a function of the cache sizes alone.
// All were determined by timing with 32 KiB of first level and 1 MiB of second (AMD Zen 4 and 5); `block_sizes` returns
// those values there, and scales them for larger caches. A smaller second level (512 KiB: Zen 2 and 3) keeps them.
struct BlockSizes {
  // Words along the sum that a weight gradient processes at a time: those of a panel fill the first level.
  long product_steps;
  // Largest size in bytes of a weight gradient and a chunk's packed operands for which each group of rows accumulates a
  // gradient of its own: five eighths of the second level.
  long group_bytes;
};

constexpr BlockSizes block_sizes_of(CacheSizes sizes) {
  constexpr long kFirst = 32 << 10, kSecond = 1 << 20;
  const long first = sizes.first_level > kFirst ? sizes.first_level : kFirst;
  const long second = sizes.second_level > kSecond ? sizes.second_level : kSecond;
  return {256 * first / kFirst, second / 8 * 5};
}

// The cache sizes of this processor, read once; 32 KiB and 1 MiB if the system does not report them.
const CacheSizes& cache_sizes();
const BlockSizes& block_sizes();

}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_CACHE_SIZES_H_
