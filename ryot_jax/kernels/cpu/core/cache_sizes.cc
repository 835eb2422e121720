#include "cache_sizes.h"

#include <unistd.h>

#include <cstdio>

namespace ryot {
namespace {

// Size in bytes of the first core's data or unified cache of this level, according to Linux; 0: unknown.
long from_sysfs(int wanted_level) {
  for (int index = 0; index < 8; ++index) {
    char path[96], type[16] = "", unit = 'K';
    int level = 0;
    long size = 0;
    const auto read = [&](const char* name, const char* format, auto*... values) {
      std::snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/%s", index, name);
      std::FILE* const file = std::fopen(path, "r");
      if (!file) return false;
      const int found = std::fscanf(file, format, values...);
      std::fclose(file);
      return found == static_cast<int>(sizeof...(values));
    };
    if (!read("level", "%d", &level)) return 0;
    if (level != wanted_level || !read("type", "%15s", type) || type[0] == 'I') continue;
    if (read("size", "%ld%c", &size, &unit)) return size * (unit == 'M' ? 1 << 20 : 1 << 10);
  }
  return 0;
}

long size_of_level(int level, long fallback) {
  long size = 0;
#if defined(_SC_LEVEL1_DCACHE_SIZE) && defined(_SC_LEVEL2_CACHE_SIZE)
  size = sysconf(level == 1 ? _SC_LEVEL1_DCACHE_SIZE : _SC_LEVEL2_CACHE_SIZE);
#endif
  if (size <= 0) size = from_sysfs(level);
  return size > 0 ? size : fallback;
}

}  // namespace

const CacheSizes& cache_sizes() {
  static const CacheSizes sizes = {size_of_level(1, 32 << 10), size_of_level(2, 1 << 20)};
  return sizes;
}

const BlockSizes& block_sizes() {
  static const BlockSizes sizes = block_sizes_of(cache_sizes());
  return sizes;
}

}  // namespace ryot
