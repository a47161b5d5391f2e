// Pairs of bfloat16 numbers in the lanes of vectors, by AVX512_BF16.
#pragma once

#include <immintrin.h>

#include "simd/vector.hpp"

namespace SPARSECORE_VARIANT {

// Two bfloat16 numbers in each lane.
typedef __m512bh Pairs;

// The lanes of two vectors as the lower and the upper halves.
inline Pairs paired(Vector lower, Vector upper) {
  const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)lower));
  const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)upper));
  return (Pairs)_mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

}  // namespace SPARSECORE_VARIANT
