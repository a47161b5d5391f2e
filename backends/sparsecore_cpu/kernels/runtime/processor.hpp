// What this processor has, beside the least that every one has.
#pragma once

#ifdef SPARSECORE_X86
#include <cpuid.h>

#include <cstdint>

namespace sparsecore {

inline bool has_avx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

inline bool has_avx512() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
}

inline bool has_avx512_bfloat16() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512bf16");
}

// The registers that CPUID answers with.
struct ProcessorFacts {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;

  // All zero where the processor has no such answer.
  ProcessorFacts(uint32_t leaf, uint32_t subleaf) { __get_cpuid_count(leaf, subleaf, &eax, &ebx, &ecx, &edx); }
};

// Whether the processor multiplies tiles of bfloat16 numbers of the size that the kernels are written for, and the
// system has enabled that.
inline bool find_amx() {
  constexpr uint32_t SAVES_STATE = 1u << 27;                 // leaf 1, ECX: OSXSAVE
  constexpr uint32_t TILES = 1u << 24, BFLOAT16 = 1u << 22;  // leaf 7, EDX: AMX-TILE and AMX-BF16
  constexpr uint32_t TILE_STATE = 1u << 17 | 1u << 18;       // XCR0: configuration and data of tiles
  if (!(ProcessorFacts(1, 0).ecx & SAVES_STATE)) return false;
  if ((ProcessorFacts(7, 0).edx & (TILES | BFLOAT16)) != (TILES | BFLOAT16)) return false;
  uint32_t enabled, upper;
  __asm__ volatile("xgetbv" : "=a"(enabled), "=d"(upper) : "c"(0));
  if ((enabled & TILE_STATE) != TILE_STATE) return false;
  // palette 1: the bytes of a tile, of a row, the number of tiles, and of the rows of one
  const ProcessorFacts palette(0x1d, 1);
  return palette.eax >> 16 == 1024 && (palette.ebx & 0xffff) == 64 && palette.ebx >> 16 == 8 &&
         (palette.ecx & 0xffff) == 16;
}

// CPUID takes long on virtual machines, so that it is asked once.
inline bool has_amx() {
  static const bool found = find_amx();
  return found;
}

}  // namespace sparsecore
#endif
