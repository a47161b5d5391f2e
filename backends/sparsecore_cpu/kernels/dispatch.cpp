#include <cstring>

#include "kernels.hpp"

namespace baseline {
extern const sparsecore::Kernels table;
}
#ifdef SPARSECORE_X86
namespace avx2 {
extern const sparsecore::Kernels table;
}
namespace avx512 {
extern const sparsecore::Kernels table;
}
#endif

namespace sparsecore {

const Kernels* kernels(const char* name) {
  const auto wanted = [name](const Kernels& table) { return !name || !*name || !std::strcmp(name, table.name); };
#ifdef SPARSECORE_X86
  __builtin_cpu_init();
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
  if (wide && wanted(avx512::table)) return &avx512::table;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && wanted(avx2::table)) return &avx2::table;
#endif
  return wanted(baseline::table) ? &baseline::table : nullptr;
}

}  // namespace sparsecore
