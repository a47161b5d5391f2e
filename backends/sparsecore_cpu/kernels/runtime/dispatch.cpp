// Chooses the kernels for this processor at run time.
#include <cstring>

#include "kernels.hpp"

#define DECLARE_TABLES(name)                    \
  namespace name {                              \
  extern const sparsecore::KernelTable table;   \
  }                                             \
  namespace name##_bfloat16 {                   \
    extern const sparsecore::KernelTable table; \
  }

DECLARE_TABLES(baseline)
#ifdef SPARSECORE_X86
DECLARE_TABLES(avx2)
DECLARE_TABLES(avx512)
#endif

namespace sparsecore {

KernelTables find_kernels(const char* name) {
  const auto wanted = [name](const char* candidate) { return !name || !*name || !std::strcmp(name, candidate); };
#ifdef SPARSECORE_X86
  __builtin_cpu_init();
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
  if (has_avx512 && wanted("avx512")) return {&avx512::table, &avx512_bfloat16::table};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && wanted("avx2"))
    return {&avx2::table, &avx2_bfloat16::table};
#endif
  if (wanted("baseline")) return {&baseline::table, &baseline_bfloat16::table};
  return {nullptr, nullptr};
}

}  // namespace sparsecore
