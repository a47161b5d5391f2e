// One vector of the processor at hand, in the compiler's own vector types: the same source for AVX-512, AVX2, SSE2 and
// NEON. Each translation unit that includes this is compiled for one of them and puts its code in a namespace of that
// name, so that no function of one variant can be taken for another's by the linker.
#pragma once

#include <cstdint>

#ifndef SPARSECORE_VARIANT
#error "compile with -DSPARSECORE_VARIANT=name"
#endif

namespace SPARSECORE_VARIANT {

#if defined(__AVX512F__)
constexpr int LANES = 16, TILE = 16;  // 32 registers
#elif defined(__AVX2__)
constexpr int LANES = 8, TILE = 8;  // 16 registers
#elif defined(__ARM_NEON)
constexpr int LANES = 4, TILE = 16;  // 32 registers
#else
constexpr int LANES = 4, TILE = 8;  // 16 registers
#endif

typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), may_alias));

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, Vector vector) { *reinterpret_cast<Vector*>(to) = vector; }
inline Vector zeros() { return Vector{}; }

// From and to places that need not start at a vector's boundary.
inline Vector load_anywhere(const float* from) {
  Vector vector;
  __builtin_memcpy(&vector, from, sizeof vector);
  return vector;
}

inline void store_anywhere(float* to, Vector vector) { __builtin_memcpy(to, &vector, sizeof vector); }

inline double sum(Vector vector) {
  double total = 0;
  for (int lane = 0; lane < LANES; lane++) total += vector[lane];
  return total;
}

// The lanes in pairs, then the pairs in pairs: always the same order, and a few shuffles for the compiler.
inline float folded(Vector vector) {
  float lanes[LANES];
  __builtin_memcpy(lanes, &vector, sizeof lanes);
  for (int half = LANES / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
  return lanes[0];
}

// The first `count` lanes, and zeros.
inline Vector first_lanes(Vector vector, int count) {
  Vector kept = zeros();
  for (int lane = 0; lane < LANES; lane++) kept[lane] = lane < count ? vector[lane] : 0.0f;
  return kept;
}

}  // namespace SPARSECORE_VARIANT
