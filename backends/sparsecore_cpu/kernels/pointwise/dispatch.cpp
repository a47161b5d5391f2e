// Finds the kernels that work entry by entry for an instruction set.
#include <cstring>

#include "pointwise/table.hpp"

#define DECLARE_TABLES(name)                                 \
  namespace name {                                           \
  extern const sparsecore::PointwiseTable pointwise_table;   \
  }                                                          \
  namespace name##_bfloat16 {                                \
    extern const sparsecore::PointwiseTable pointwise_table; \
  }

DECLARE_TABLES(baseline)
#ifdef SPARSECORE_X86
DECLARE_TABLES(avx2)
DECLARE_TABLES(avx512)
#endif

namespace sparsecore {

PointwiseTables find_pointwise_kernels(const char* name) {
#ifdef SPARSECORE_X86
  if (!std::strcmp(name, avx512::pointwise_table.name))
    return {&avx512::pointwise_table, &avx512_bfloat16::pointwise_table};
  if (!std::strcmp(name, avx2::pointwise_table.name)) return {&avx2::pointwise_table, &avx2_bfloat16::pointwise_table};
#endif
  (void)name;
  return {&baseline::pointwise_table, &baseline_bfloat16::pointwise_table};
}

}  // namespace sparsecore
