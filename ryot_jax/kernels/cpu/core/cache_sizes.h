// The processor's cache sizes, and the sizes of blocks that follow from them.
#ifndef RYOT_KERNELS_CPU_CORE_CACHE_SIZES_H_
#define RYOT_KERNELS_CPU_CORE_CACHE_SIZES_H_

namespace ryot {

struct CacheSizes {
  long first_level, second_level;  // bytes of data that one core has
};

// Block sizes decide the order of sums, and so the last bits of results: they are a function of the cache sizes alone.
// All were found by timing on 32 KiB of first level and 1 MiB of second (AMD Zen 4 and 5); `block_sizes` gives those
// values there, and scales them where a cache is larger. A smaller second level (512 KiB: Zen 2 and 3) keeps them.
struct BlockSizes {
  // Words along the sum that a weight gradient takes at a time: those of a panel fill the first level.
  long product_steps;
  // Bytes of a gradient of weights and of what is packed of a chunk of rows, up to which each group of rows adds up a
  // gradient of its own: five eighths of the second level.
  long group_bytes;
};

constexpr BlockSizes block_sizes_of(CacheSizes sizes) {
  constexpr long kFirst = 32 << 10, kSecond = 1 << 20;
  const long first = sizes.first_level > kFirst ? sizes.first_level : kFirst;
  const long second = sizes.second_level > kSecond ? sizes.second_level : kSecond;
  return {256 * first / kFirst, second / 8 * 5};
}

// Of this processor, read once; 32 KiB and 1 MiB where the system does not tell.
const CacheSizes& cache_sizes();
const BlockSizes& block_sizes();

}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_CACHE_SIZES_H_
