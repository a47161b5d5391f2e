// SIMD vectors in the compiler's own vector types: one source for AVX-512, AVX2, SSE2 and NEON.
//
// Each translation unit that includes this is compiled for one instruction set and puts its code into a namespace of
// that name, so that the linker cannot take a function of one instruction set for another's.
#pragma once

#include <cstdint>
#include <utility>

#ifndef SPARSECORE_VARIANT
#error "compile with -DSPARSECORE_VARIANT=name"
#endif

namespace SPARSECORE_VARIANT {

// LANES floats are one vector; the outputs of a tile of TILE pixels leave enough registers for the operands.
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

inline Vector zeros() { return Vector{}; }

// Loads and stores of vectors that are aligned to their size.
inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, Vector vector) { *reinterpret_cast<Vector*>(to) = vector; }

inline Vector load_unaligned(const float* from) {
  Vector vector;
  __builtin_memcpy(&vector, from, sizeof vector);
  return vector;
}

inline void store_unaligned(float* to, Vector vector) { __builtin_memcpy(to, &vector, sizeof vector); }

// Images are stored as float32, or as the upper halves of floats (bfloat16) where SPARSECORE_BFLOAT16 is defined. All
// arithmetic is in float32.
#ifdef SPARSECORE_BFLOAT16
struct Stored {
  uint16_t upper_half;
};
typedef uint16_t Halves __attribute__((vector_size(LANES * sizeof(uint16_t)), may_alias));
typedef uint32_t Bits __attribute__((vector_size(LANES * sizeof(uint32_t)), may_alias));

inline Vector load(const Stored* from) {
  return reinterpret_cast<Vector>(__builtin_convertvector(*reinterpret_cast<const Halves*>(from), Bits) << 16);
}

// Rounds to nearest; ties away from zero. What is not a number stays so: to add half a step to its mantissa could give
// infinity, or zero.
inline void store(Stored* to, Vector vector) {
  const Bits bits = reinterpret_cast<Bits>(vector);
  const Bits rounded = vector == vector ? bits + 0x8000 : bits | 0x400000;
  *reinterpret_cast<Halves*>(to) = __builtin_convertvector(rounded >> 16, Halves);
}
#else
using Stored = float;
#endif

constexpr bool STORED_AS_FLOAT = sizeof(Stored) == sizeof(float);

// Keeps an address in a register, so that loads use constant displacements from it. Compilers that take the address
// apart instead spend more instructions on addresses than on the operands.
inline const float* pin_register(const float* address) {
  __asm__("" : "+r"(address));
  return address;
}

// max(vector, 0); what is not a number stays so.
inline Vector rectified(Vector vector) { return vector < zeros() ? zeros() : vector; }

inline double sum(Vector vector) {
  double total = 0;
  for (int lane = 0; lane < LANES; lane++) total += vector[lane];
  return total;
}

// The first `count` lanes of a vector; the others are zero.
inline Vector first_lanes(Vector vector, int count) {
  typedef int32_t Numbers __attribute__((vector_size(LANES * sizeof(int32_t))));
  Numbers numbers;
  for (int lane = 0; lane < LANES; lane++) numbers[lane] = lane;
  return numbers < count ? vector : zeros();
}

// Shuffles within quarters: groups of four lanes, which instructions can shuffle cheaply. Lane `index` of the quarter
// that `lane` is in; from 4 on, of the second of two vectors.
constexpr int lane_in_quarter(int lane, int index) { return (index < 4 ? 0 : LANES - 4) + lane / 4 * 4 + index; }

// Takes lanes A, B, C and D of each quarter of two vectors.
template <int A, int B, int C, int D, int... LANE>
inline Vector shuffle_quarters(Vector first, Vector second, std::integer_sequence<int, LANE...>) {
  constexpr int indices[4] = {A, B, C, D};
  return __builtin_shufflevector(first, second, lane_in_quarter(LANE, indices[LANE % 4])...);
}

// Sums four vectors by quarters: lane i of each quarter of the result is the sum of that quarter of vector i.
inline Vector sum_by_quarters(const Vector (&vectors)[4]) {
  constexpr auto lanes = std::make_integer_sequence<int, LANES>{};
  const auto add_pairs = [&](Vector first, Vector second) {
    return shuffle_quarters<0, 4, 1, 5>(first, second, lanes) + shuffle_quarters<2, 6, 3, 7>(first, second, lanes);
  };
  const Vector front = add_pairs(vectors[0], vectors[1]), back = add_pairs(vectors[2], vectors[3]);
  return shuffle_quarters<0, 1, 4, 5>(front, back, lanes) + shuffle_quarters<2, 3, 6, 7>(front, back, lanes);
}

typedef float Quarter __attribute__((vector_size(4 * sizeof(float)), aligned(sizeof(float)), may_alias));

// The sum of the quarters of a vector in memory.
inline Quarter sum_of_quarters(const float* from) {
  Quarter total = *reinterpret_cast<const Quarter*>(from);
  for (int lane = 4; lane < LANES; lane += 4) total += *reinterpret_cast<const Quarter*>(from + lane);
  return total;
}

}  // namespace SPARSECORE_VARIANT
