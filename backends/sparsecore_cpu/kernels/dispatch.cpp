#include <cstring>

#include "kernels.hpp"

#define DECLARED(name)                     \
  namespace name {                         \
  extern const sparsecore::Kernels table;  \
  }                                        \
  namespace name##_bfloat16 {              \
  extern const sparsecore::Kernels table;  \
  }

DECLARED(baseline)
#ifdef SPARSECORE_X86
DECLARED(avx2)
DECLARED(avx512)
#endif

namespace sparsecore {

Tables kernels(const char* name) {
  const auto wanted = [name](const char* of) { return !name || !*name || !std::strcmp(name, of); };
#ifdef SPARSECORE_X86
  __builtin_cpu_init();
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
  if (wide && wanted("avx512")) return {&avx512::table, &avx512_bfloat16::table};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && wanted("avx2"))
    return {&avx2::table, &avx2_bfloat16::table};
#endif
  if (wanted("baseline")) return {&baseline::table, &baseline_bfloat16::table};
  return {nullptr, nullptr};
}

}  // namespace sparsecore
