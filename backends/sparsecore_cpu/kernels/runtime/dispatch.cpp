// Chooses the kernels for this processor at run time.
#include <cstring>

#include "kernels.hpp"
#include "linear/linear.hpp"

#define DECLARE_TABLES(name)                         \
  namespace name {                                   \
  extern const sparsecore::KernelTable table;        \
  extern const sparsecore::LinearTable linear_table; \
  }                                                  \
  namespace name##_bfloat16 {                        \
    extern const sparsecore::KernelTable table;      \
  }

DECLARE_TABLES(baseline)
#ifdef SPARSECORE_X86
DECLARE_TABLES(avx2)
DECLARE_TABLES(avx512)
#endif

namespace sparsecore {

namespace {

// The tables for one instruction set.
struct Tables {
  KernelTables kernels;
  const LinearTable* linear;
};

Tables find_tables(const char* name) {
  const auto wanted = [name](const char* candidate) { return !name || !*name || !std::strcmp(name, candidate); };
#ifdef SPARSECORE_X86
  __builtin_cpu_init();
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
  if (has_avx512 && wanted("avx512")) return {{&avx512::table, &avx512_bfloat16::table}, &avx512::linear_table};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && wanted("avx2"))
    return {{&avx2::table, &avx2_bfloat16::table}, &avx2::linear_table};
#endif
  if (wanted("baseline")) return {{&baseline::table, &baseline_bfloat16::table}, &baseline::linear_table};
  return {{nullptr, nullptr}, nullptr};
}

}  // namespace

KernelTables find_kernels(const char* name) { return find_tables(name).kernels; }

const LinearTable* find_linear_kernels(const char* name) { return find_tables(name).linear; }

}  // namespace sparsecore
