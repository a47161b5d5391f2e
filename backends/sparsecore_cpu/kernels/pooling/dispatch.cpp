// Chooses the kernels for pooling at run time: those of the instruction set that the other kernels are for.
#include <cstring>

#include "pooling/table.hpp"

#define DECLARE_TABLES(name)                             \
  namespace name {                                       \
  extern const sparsecore::PoolingTable pooling_table;   \
  }                                                      \
  namespace name##_bfloat16 {                            \
    extern const sparsecore::PoolingTable pooling_table; \
  }

DECLARE_TABLES(baseline)
#ifdef SPARSECORE_X86
DECLARE_TABLES(avx2)
DECLARE_TABLES(avx512)
#endif

namespace sparsecore {

PoolingTables find_pooling_kernels(const char* name) {
  const KernelTable* kernels = find_kernels(name).float32;
  if (!kernels) return {nullptr, nullptr};
  const PoolingTables known[] = {
      {&baseline::pooling_table, &baseline_bfloat16::pooling_table},
#ifdef SPARSECORE_X86
      {&avx2::pooling_table, &avx2_bfloat16::pooling_table},
      {&avx512::pooling_table, &avx512_bfloat16::pooling_table},
#endif
  };
  for (const PoolingTables& tables : known)
    if (!std::strcmp(tables.float32->name, kernels->name)) return tables;
  return {nullptr, nullptr};
}

}  // namespace sparsecore
