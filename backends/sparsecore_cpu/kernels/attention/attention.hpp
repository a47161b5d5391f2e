// Attention of tokens that lie behind each other in memory: vectors go along the queries.
#pragma once

#include <algorithm>
#include <limits>
#include <type_traits>

#include "attention/table.hpp"
#include "pointwise/math.hpp"
#include "runtime/scratch.hpp"

namespace SPARSECORE_VARIANT {

using sparsecore::AttentionParams;
using sparsecore::parallel_for;

// The queries that are computed at a time, and the keys or features that share what is loaded of them.
constexpr int QUERY_VECTORS = 2, QUERIES = QUERY_VECTORS * LANES, GROUP = 4;

inline Vector lane_numbers() {
  Vector numbers;
  for (int lane = 0; lane < LANES; lane++) numbers[lane] = static_cast<float>(lane);
  return numbers;
}

// Numbers for each query.
struct Queries {
  Vector vectors[QUERY_VECTORS] = {};
};

// products[i] = the sum over k of numbers[i * stride + k * step] * queries k.
template <int COUNT>
inline __attribute__((always_inline)) void multiply(const float* numbers, int64_t stride, int64_t step,
                                                    const float* queries, int64_t sums, Queries (&products)[COUNT]) {
  for (int64_t k = 0; k < sums; k++) {
    Vector loaded[QUERY_VECTORS];
    for (int v = 0; v < QUERY_VECTORS; v++) loaded[v] = load(queries + k * QUERIES + v * LANES);
#pragma GCC unroll 4
    for (int i = 0; i < COUNT; i++)
#pragma GCC unroll 4
      for (int v = 0; v < QUERY_VECTORS; v++) products[i].vectors[v] += numbers[i * stride + k * step] * loaded[v];
  }
}

// Calls visit(count as a constant, first) for consecutive groups.
template <class Visit>
void for_each_group(int64_t count, Visit visit) {
  int64_t first = 0;
  for (; first + GROUP <= count; first += GROUP) visit(std::integral_constant<int, GROUP>{}, first);
  for (; first < count; first++) visit(std::integral_constant<int, 1>{}, first);
}

// Some consecutive queries of one head, from `first` on.
struct QueryBlock {
  const AttentionParams& params;
  int64_t example, head, first;
  int64_t count = std::min<int64_t>(QUERIES, params.tokens - first);
  int64_t keys = params.causal ? std::min(params.keys, first + count) : params.keys;  // that any of them reads

  void compute() const {
    static thread_local Scratch scratch;
    float* queries = scratch.request(QUERIES * (params.features + params.keys));  // (features, queries)
    float* weights = queries + QUERIES * params.features;                         // (keys, queries)
    copy_scaled(queries);
    const Queries totals = exponentiate(weights, write_scores(queries, weights));
    write_outputs(weights, totals);
  }

 private:
  void copy_scaled(float* queries) const {
    const float* from = params.query.of(example, head) + first;
    for (int64_t feature = 0; feature < params.features; feature++, from += params.query.feature_stride)
      for (int64_t i = 0; i < QUERIES; i++) *queries++ = i < count ? from[i] * params.scale : 0;
  }

  // Returns the greatest score of each query.
  Queries write_scores(const float* queries, float* scores) const {
    const float* from = params.key.of(example, head);
    constexpr float LOWEST = -std::numeric_limits<float>::infinity();
    Queries greatest;
    for (Vector& vector : greatest.vectors) vector = broadcast(LOWEST);
    for_each_group(keys, [&](auto constant, int64_t key) {
      constexpr int COUNT = decltype(constant)::value;
      Queries products[COUNT];
      multiply(from + key, 1, params.key.feature_stride, queries, params.features, products);
      for (int i = 0; i < COUNT; i++)
        for (int v = 0; v < QUERY_VECTORS; v++) {
          const Vector product = products[i].vectors[v];
          const auto own = static_cast<float>(key + i - first - v * LANES);  // of the lane whose own number it is
          const Vector score = params.causal ? (lane_numbers() < own ? broadcast(LOWEST) : product) : product;
          store(scores + (key + i) * QUERIES + v * LANES, score);
          greatest.vectors[v] = score > greatest.vectors[v] ? score : greatest.vectors[v];
        }
    });
    return greatest;
  }

  // Replaces scores by exp(score - greatest), and returns their sums.
  Queries exponentiate(float* scores, const Queries& greatest) const {
    Queries totals;
    for (int64_t key = 0; key < keys; key++)
      for (int v = 0; v < QUERY_VECTORS; v++) {
        float* score = scores + key * QUERIES + v * LANES;
        const Vector power = exp(load(score) - greatest.vectors[v]);
        store(score, power);
        totals.vectors[v] += power;
      }
    return totals;
  }

  void write_outputs(const float* weights, const Queries& totals) const {
    const float* from = params.value.of(example, head);
    float* to = params.out.of(example, head) + first;
    for_each_group(params.value_features, [&](auto constant, int64_t feature) {
      constexpr int COUNT = decltype(constant)::value;
      Queries products[COUNT];
      multiply(from + feature * params.value.feature_stride, params.value.feature_stride, 1, weights, keys, products);
      for (int i = 0; i < COUNT; i++) {
        for (int v = 0; v < QUERY_VECTORS; v++) products[i].vectors[v] /= totals.vectors[v];
        __builtin_memcpy(to + (feature + i) * params.out.feature_stride, products[i].vectors,
                         static_cast<size_t>(count) * sizeof(float));
      }
    });
  }
};

inline void attend(const AttentionParams& params) {
  const int64_t blocks = (params.tokens + QUERIES - 1) / QUERIES;
  parallel_for(params.examples * params.heads * blocks, params.threads, [&](int64_t task) {
    const int64_t head = task / blocks;
    QueryBlock{params, head / params.heads, head % params.heads, task % blocks * QUERIES}.compute();
  });
}

}  // namespace SPARSECORE_VARIANT
