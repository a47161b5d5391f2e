// What one core can do at most: multiply-adds of vectors between registers, and with one operand read from memory.
#include <cstdint>

typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), may_alias));

constexpr int CHAINS = LANES == 16 ? 16 : 10;  // sums that do not wait for each other; more would not fit the registers

static float sum_of(const Vector (&sums)[CHAINS]) {
  float total = 0;
  for (const Vector& sum : sums)
    for (int lane = 0; lane < LANES; lane++) total += sum[lane];
  return total;
}

// `count` multiply-adds of a vector, or a few less.
extern "C" float between_registers(int64_t count) {
  Vector sums[CHAINS];
  for (int chain = 0; chain < CHAINS; chain++) sums[chain] = Vector{} + static_cast<float>(chain);  // else they are one
  for (int64_t i = 0; i + CHAINS <= count; i += CHAINS) {
    Vector x = Vector{} + 0.5f;
    asm volatile("" : "+x"(x));  // it may be another one each time
#pragma GCC unroll 16
    for (int chain = 0; chain < CHAINS; chain++) sums[chain] = sums[chain] * x + x;
  }
  return sum_of(sums);
}

// The `vectors` at `data`, which starts at a cache line, are read `times` times, one multiply-add each; the last few
// vectors that fill no round are left out.
extern "C" float from_memory(const float* data, int64_t vectors, int64_t times) {
  Vector sums[CHAINS] = {};
  for (int64_t time = 0; time < times; time++) {
    Vector weight = Vector{} + 0.5f;
    asm volatile("" : "+x"(weight) : : "memory");
    for (int64_t i = 0; i + CHAINS <= vectors; i += CHAINS)
#pragma GCC unroll 16
      for (int chain = 0; chain < CHAINS; chain++)
        sums[chain] += weight * *reinterpret_cast<const Vector*>(data + (i + chain) * LANES);
  }
  return sum_of(sums);
}
