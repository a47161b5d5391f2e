// Chooses the kernels for this processor at run time.
#include "runtime/dispatch.hpp"

#include <cstring>

#include "attention/table.hpp"
#include "kernels.hpp"
#include "linear/linear.hpp"
#include "pointwise/table.hpp"
#include "pooling/table.hpp"
#include "runtime/processor.hpp"

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

#define TABLES_OF(name, rounded_linear, blocks)                                                    \
  Tables {                                                                                         \
    #name, {&name::table, &name##_bfloat16::table}, {&name::linear_table, rounded_linear, blocks}, \
        {&name::pointwise_table, &name##_bfloat16::pointwise_table},                               \
        {&name::pooling_table, &name##_bfloat16::pooling_table}, &name::attention_table,           \
  }

DECLARE_TABLES(baseline)
namespace baseline {
extern const sparsecore::BlockTable emulated_block_table;
}
#ifdef SPARSECORE_X86
DECLARE_TABLES(avx2)
DECLARE_TABLES(avx512)
namespace avx512bf16 {
extern const sparsecore::LinearTable linear_table;
extern const sparsecore::BlockTable emulated_block_table;
}  // namespace avx512bf16
#ifdef SPARSECORE_AMX
namespace amx {
extern const sparsecore::BlockTable block_table;
}
#endif
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

  Tables named(const char* name) const {
    Tables copy = *this;
    copy.name = name;
    return copy;
  }
};

// Those of this name or, where it is empty, of the best instruction set of this processor. Null pointers where it has
// none of this name. Those with emulated matrix tiles are for tests, and are found by their names alone.
Tables find_tables(const char* name) {
  const auto named = [name](const char* candidate) { return name && !std::strcmp(name, candidate); };
  const auto wanted = [&](const char* candidate) { return !name || !*name || named(candidate); };
#ifdef SPARSECORE_X86
  const bool has_bfloat16 = has_avx512() && has_avx512_bfloat16();
#ifdef SPARSECORE_AMX
  if (has_bfloat16 && has_amx() && wanted("amx"))
    return TABLES_OF(avx512, &avx512bf16::linear_table, &amx::block_table).named("amx");
#endif
  if (has_bfloat16 && named("avx512-amx-emulated"))
    return TABLES_OF(avx512, &avx512bf16::linear_table, &avx512bf16::emulated_block_table).named("avx512-amx-emulated");
  if (has_avx512() && wanted("avx512"))
    return TABLES_OF(avx512, has_bfloat16 ? &avx512bf16::linear_table : nullptr, nullptr);
  if (has_avx2() && wanted("avx2")) return TABLES_OF(avx2, nullptr, nullptr);
#endif
  if (named("baseline-amx-emulated"))
    return TABLES_OF(baseline, nullptr, &baseline::emulated_block_table).named("baseline-amx-emulated");
  if (wanted("baseline")) return TABLES_OF(baseline, nullptr, nullptr);
  return {};
}

}  // namespace

const char* found_name(const char* name) { return find_tables(name).name; }

KernelTables find_kernels(const char* name) { return find_tables(name).kernels; }

LinearTables find_linear_kernels(const char* name) { return find_tables(name).linear; }

PointwiseTables find_pointwise_kernels(const char* name) { return find_tables(name).pointwise; }

PoolingTables find_pooling_kernels(const char* name) { return find_tables(name).pooling; }

const AttentionTable* find_attention_kernels(const char* name) { return find_tables(name).attention; }

}  // namespace sparsecore
