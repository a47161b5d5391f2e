// Matrix tiles by the instructions of AMX.
//
// They are written as assembly: GCC's intrinsics take no constants of templates as tile numbers, and do not say that
// they read memory, so that stores could be moved behind the loads of tiles.
#pragma once

#include "linear/matrix_tiles.hpp"

namespace SPARSECORE_VARIANT {

struct AmxTiles {
  static void configure(const TileConfiguration& configuration) {
    __asm__ volatile("ldtilecfg %0" ::"m"(configuration) : "memory");
  }

  static void release() { __asm__ volatile("tilerelease" ::: "memory"); }

  template <int TILE>
  static void zero() {
    __asm__ volatile("tilezero %%tmm%c0" ::"i"(TILE));
  }

  template <int TILE>
  static void load(const void* from, int64_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(TILE) : "memory");
  }

  template <int TILE>
  static void store(void* to, int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(TILE) : "memory");
  }

  template <int SUM, int LEFT, int RIGHT>
  static void add_products() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUM), "i"(LEFT), "i"(RIGHT));
  }
};

}  // namespace SPARSECORE_VARIANT
