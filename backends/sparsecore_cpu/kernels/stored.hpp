// What activations of images are stored as: float, or the upper half of one (bfloat16) where SPARSECORE_BFLOAT16 is
// defined. Everything is computed in floats.
#pragma once

#include "vector.hpp"

namespace SPARSECORE_VARIANT {

#ifdef SPARSECORE_BFLOAT16
struct Stored {
  uint16_t upper;
};
typedef uint16_t Halves __attribute__((vector_size(LANES * sizeof(uint16_t)), may_alias));
typedef uint32_t Bits __attribute__((vector_size(LANES * sizeof(uint32_t)), may_alias));

inline Vector load(const Stored* from) {
  return reinterpret_cast<Vector>(__builtin_convertvector(*reinterpret_cast<const Halves*>(from), Bits) << 16);
}

// Rounded to the nearest, away from zero where two are as near.
inline void store(Stored* to, Vector vector) {
  *reinterpret_cast<Halves*>(to) = __builtin_convertvector((reinterpret_cast<Bits>(vector) + 0x8000) >> 16, Halves);
}
#else
using Stored = float;
#endif

constexpr bool STORED_AS_COMPUTED = sizeof(Stored) == sizeof(float);

}  // namespace SPARSECORE_VARIANT
