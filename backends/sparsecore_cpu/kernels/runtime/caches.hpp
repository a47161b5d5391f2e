// The sizes of a core's caches.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __APPLE__
#include <sys/sysctl.h>
#elif !defined(_WIN32)
#include <unistd.h>
#endif

namespace sparsecore {

struct CacheSizes {
  int64_t first, second;  // the data cache next to the core, and the one behind it, in bytes
};

// What the system says, or sizes that most processors have at least.
inline CacheSizes cache_sizes() {
  static const CacheSizes sizes = [] {
    CacheSizes found{0, 0};
#ifdef __APPLE__
    size_t size = sizeof found.first;
    sysctlbyname("hw.l1dcachesize", &found.first, &size, nullptr, 0);
    size = sizeof found.second;
    sysctlbyname("hw.l2cachesize", &found.second, &size, nullptr, 0);
#elif defined(_SC_LEVEL1_DCACHE_SIZE)
    found = {sysconf(_SC_LEVEL1_DCACHE_SIZE), sysconf(_SC_LEVEL2_CACHE_SIZE)};
#endif
    constexpr int64_t KIB = 1024;
    if (found.first < 16 * KIB || found.first > 1024 * KIB) found.first = 32 * KIB;
    if (found.second < found.first || found.second > 64 * KIB * KIB) found.second = 512 * KIB;
    return found;
  }();
  return sizes;
}

}  // namespace sparsecore
