// Chooses the kernels for this processor at run time.
#include <cstring>

#include "attention/table.hpp"
#include "kernels.hpp"
#include "linear/linear.hpp"
#include "pointwise/table.hpp"
#include "pooling/table.hpp"

// The tables of one instruction set: those of all kernels, and those for images stored as bfloat16.
#define DECLARE_TABLES(name)                                 \
  namespace name {                                           \
  extern const sparsecore::KernelTable table;                \
  extern const sparsecore::LinearTable linear_table;         \
  extern const sparsecore::PointwiseTable pointwise_table;   \
  extern const sparsecore::PoolingTable pooling_table;       \
  extern const sparsecore::AttentionTable attention_table;   \
  }                                                          \
  namespace name##_bfloat16 {                                \
    extern const sparsecore::KernelTable table;              \
    extern const sparsecore::PointwiseTable pointwise_table; \
    extern const sparsecore::PoolingTable pooling_table;     \
  }

#define TABLES_OF(name, rounded_linear)                                                    \
  Tables {                                                                                 \
    #name, {&name::table, &name##_bfloat16::table}, {&name::linear_table, rounded_linear}, \
        {&name::pointwise_table, &name##_bfloat16::pointwise_table},                       \
        {&name::pooling_table, &name##_bfloat16::pooling_table}, &name::attention_table,   \
  }

DECLARE_TABLES(baseline)
#ifdef SPARSECORE_X86
DECLARE_TABLES(avx2)
DECLARE_TABLES(avx512)
namespace avx512bf16 {
extern const sparsecore::LinearTable linear_table;
}
#endif

namespace sparsecore {

namespace {

// All kernels for one instruction set.
struct Tables {
  const char* name;
  KernelTables kernels;
  LinearTables linear;
  PointwiseTables pointwise;
  PoolingTables pooling;
  const AttentionTable* attention;
};

// Those of this name or, where it is empty, of the best instruction set of this processor. Null pointers where it has
// none of this name.
Tables find_tables(const char* name) {
  const auto wanted = [name](const char* candidate) { return !name || !*name || !std::strcmp(name, candidate); };
#ifdef SPARSECORE_X86
  __builtin_cpu_init();
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
  if (has_avx512 && wanted("avx512"))
    return TABLES_OF(avx512, __builtin_cpu_supports("avx512bf16") ? &avx512bf16::linear_table : nullptr);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && wanted("avx2"))
    return TABLES_OF(avx2, nullptr);
#endif
  if (wanted("baseline")) return TABLES_OF(baseline, nullptr);
  return {};
}

}  // namespace

KernelTables find_kernels(const char* name) { return find_tables(name).kernels; }

LinearTables find_linear_kernels(const char* name) { return find_tables(name).linear; }

PointwiseTables find_pointwise_kernels(const char* name) { return find_tables(name).pointwise; }

PoolingTables find_pooling_kernels(const char* name) { return find_tables(name).pooling; }

const AttentionTable* find_attention_kernels(const char* name) { return find_tables(name).attention; }

}  // namespace sparsecore
