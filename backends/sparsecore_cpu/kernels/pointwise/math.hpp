// Elementary functions of vectors, to a few units in the last place. NaN stays NaN.
#pragma once

#include "simd/vector.hpp"

namespace SPARSECORE_VARIANT {

typedef uint32_t Words __attribute__((vector_size(LANES * sizeof(uint32_t)), may_alias));

inline Vector broadcast(float value) { return zeros() + value; }

// NaN is no limit, and is not limited.
inline Vector at_least(Vector x, float low) { return x < broadcast(low) ? broadcast(low) : x; }
inline Vector at_most(Vector x, float high) { return x > broadcast(high) ? broadcast(high) : x; }

constexpr uint32_t SIGN_BIT = 0x80000000;

inline Vector absolute(Vector x) { return reinterpret_cast<Vector>(reinterpret_cast<Words>(x) & ~SIGN_BIT); }

inline Vector with_sign_of(Vector magnitude, Vector signed_) {
  const Words sign = reinterpret_cast<Words>(signed_) & SIGN_BIT;
  return reinterpret_cast<Vector>(reinterpret_cast<Words>(magnitude) | sign);
}

// The polynomial whose coefficients are given from the constant one on, by Horner's scheme.
template <int COUNT>
inline Vector polynomial(const float (&coefficients)[COUNT], Vector x) {
  Vector value = broadcast(coefficients[COUNT - 1]);
  for (int i = COUNT - 2; i >= 0; i--) value = value * x + coefficients[i];
  return value;
}

// exp(x) as factor * (1 + fraction), where the factor is a power of 2 and the fraction is between sqrt(1/2) - 1 and
// sqrt(2) - 1. Numbers below the smallest normal float become zero, those from 88.4 on infinite.
struct Exponential {
  Vector factor, fraction;

  Vector value() const { return (fraction + 1.0f) * factor; }
  Vector minus_one() const { return fraction * factor + (factor - 1.0f); }
};

// Of x + low; `low` is what x lacks in precision.
inline Exponential exponential(Vector x, Vector low = zeros()) {
  // Adding this rounds a small number to an integer, which is then in the lowest bits.
  constexpr float ROUNDER = 12582912.0f;  // 1.5 * 2^23
  constexpr uint32_t ROUNDER_BITS = 0x4B400000, EXPONENT_BIAS = 127, FRACTION_BITS = 23;
  constexpr float LOG2_E = 1.44269504f, LN2_HIGH = 0.693359375f, LN2_LOW = -2.12194440e-4f;
  constexpr float LOWEST = -87.33f, HIGHEST = 89.0f;  // from log(2^-126) up to more than log(2^127.5)
  // (exp(r) - 1 - r) / r^2 for |r| <= log(2) / 2
  constexpr float COEFFICIENTS[] = {0.5f, 0.16666666f, 0.041666362f, 0.0083333896f, 0.0013940631f, 0.00019845879f};
  const Vector limited = at_most(at_least(x, LOWEST), HIGHEST);
  const Vector shifted = limited * LOG2_E + ROUNDER, multiple = shifted - ROUNDER;
  const Vector rest = limited - multiple * LN2_HIGH - multiple * LN2_LOW + low;
  const Words exponent = reinterpret_cast<Words>(shifted) - (ROUNDER_BITS - EXPONENT_BIAS);
  const Vector power = reinterpret_cast<Vector>(exponent << FRACTION_BITS);
  return {x < broadcast(LOWEST) ? zeros() : power, polynomial(COEFFICIENTS, rest) * (rest * rest) + rest};
}

inline Vector exp(Vector x) { return exponential(x).value(); }

// log(1 + x) for x from 0 to 1.
inline Vector log_of_one_plus(Vector x) {
  constexpr float COEFFICIENTS[] = {1.0f,         -0.49999902f, 0.33329964f,  -0.24954134f, 0.19675939f,
                                    -0.15305592f, 0.10603654f,  -0.05695952f, 0.019851454f, -0.0032440233f};
  return x * polynomial(COEFFICIENTS, x);
}

struct ValueAndDerivative {
  Vector value, derivative;
};

// The derivative is also precise where the sigmoid rounds to 1.
inline ValueAndDerivative sigmoid(Vector x) {
  const Vector power = exp(-absolute(x)), inverse = 1.0f / (1.0f + power), other = power * inverse;
  return {x < zeros() ? other : inverse, other * inverse};
}

inline Vector tanh(Vector x) {
  // (tanh(x) - x) / x^3 in x^2, for |x| < 0.625
  constexpr float COEFFICIENTS[] = {-0.33333281f, 0.13331440f, -0.053739525f, 0.020638434f, -0.0057042264f};
  const Vector magnitude = absolute(x), square = x * x;
  const Vector near_zero = x + x * (square * polynomial(COEFFICIENTS, square));
  const Vector far = 1.0f - 2.0f / (1.0f + exp(2.0f * magnitude));
  return magnitude < broadcast(0.625f) ? near_zero : with_sign_of(far, x);
}

// The density and the distribution function of the normal distribution.
struct Normal {
  Vector density, below;
};

inline Normal normal(Vector x) {
  // erfcx(a / sqrt(2)) / 2 in (a - 3) / (a + 3)
  constexpr float COEFFICIENTS[] = {0.12151395f,   -0.20640261f,    0.12322503f,     -0.046213292f,  0.0061320704f,
                                    0.0029045562f, -0.00098375848f, -0.00033948492f, 0.00011554379f, 5.3671883e-05f};
  const Vector magnitude = at_most(absolute(x), 15.0f);  // beyond, the density is zero
  // The square in two parts: the first is exact because it is that of half of the bits.
  const Vector front = reinterpret_cast<Vector>(reinterpret_cast<Words>(magnitude) & 0xFFFFF000);
  const Vector rest = (magnitude - front) * (magnitude + front);
  const Vector power = exponential(-0.5f * (front * front), -0.5f * rest).value();
  const Vector above = power * polynomial(COEFFICIENTS, (magnitude - 3.0f) / (magnitude + 3.0f));
  return {power * 0.39894228f, x < zeros() ? above : 1.0f - above};
}

}  // namespace SPARSECORE_VARIANT
