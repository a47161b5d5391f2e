// One vector of the processor at hand, in the compiler's own vector types: the same source for AVX-512, AVX2, SSE2 and
// NEON. Each translation unit that includes this is compiled for one of them and puts its code in a namespace of that
// name, so that no function of one variant can be taken for another's by the linker.
#pragma once

#include <cstdint>
#include <utility>

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

// A place in a register, from which others are a constant away: compilers that reckon with its parts instead spend more
// instructions on places than on what lies there.
inline const float* settled(const float* place) {
  __asm__("" : "+r"(place));
  return place;
}

inline double sum(Vector vector) {
  double total = 0;
  for (int lane = 0; lane < LANES; lane++) total += vector[lane];
  return total;
}

// Of a lane of two vectors side by side: the quarter's `of`th, of the second vector from 4 on.
constexpr int lane_in_quarter(int lane, int of) { return (of < 4 ? 0 : LANES - 4) + lane / 4 * 4 + of; }

// Four lanes of each quarter of two vectors.
template <int A, int B, int C, int D, int... LANE>
inline Vector quarters(Vector first, Vector second, std::integer_sequence<int, LANE...>) {
  constexpr int of[4] = {A, B, C, D};
  return __builtin_shufflevector(first, second, lane_in_quarter(LANE, of[LANE % 4])...);
}

// Lane i of each quarter: the sum of that quarter of vector i.
inline Vector folded_by_quarters(const Vector (&vectors)[4]) {
  constexpr auto lanes = std::make_integer_sequence<int, LANES>{};
  const auto halved = [&](Vector first, Vector second) {
    return quarters<0, 4, 1, 5>(first, second, lanes) + quarters<2, 6, 3, 7>(first, second, lanes);
  };
  const Vector front = halved(vectors[0], vectors[1]), back = halved(vectors[2], vectors[3]);
  return quarters<0, 1, 4, 5>(front, back, lanes) + quarters<2, 3, 6, 7>(front, back, lanes);
}

// Four lanes: the sums of all quarters at `from`.
typedef float Quarter __attribute__((vector_size(4 * sizeof(float)), aligned(sizeof(float)), may_alias));

inline Quarter sum_of_quarters(const float* from) {
  Quarter total = *reinterpret_cast<const Quarter*>(from);
  for (int lane = 4; lane < LANES; lane += 4) total += *reinterpret_cast<const Quarter*>(from + lane);
  return total;
}

// The first `count` lanes, and zeros.
inline Vector first_lanes(Vector vector, int count) {
  Vector kept = zeros();
  for (int lane = 0; lane < LANES; lane++) kept[lane] = lane < count ? vector[lane] : 0.0f;
  return kept;
}

}  // namespace SPARSECORE_VARIANT
