// The gradients of the weights of a linear layer: the gradient of an output stays in registers through its
// weights in a tile of inputs.
#pragma once

#include "linear/forward.hpp"

namespace SPARSECORE_VARIANT {

template <int HALF, int... LANE>
inline float sum_lanes(Vector vector, std::integer_sequence<int, LANE...> lanes) {
  vector += __builtin_shufflevector(vector, vector, (LANE ^ HALF)...);
  if constexpr (HALF > 1) return sum_lanes<HALF / 2>(vector, lanes);
  return vector[0];
}

// The sum of the lanes, in single precision.
inline float sum_lanes(Vector vector) { return sum_lanes<LANES / 2>(vector, std::make_integer_sequence<int, LANES>{}); }

// As many sums over the lanes are computed at a time.
constexpr int GROUP_OF_SUMS = 4;
typedef float GroupOfSums __attribute__((vector_size(GROUP_OF_SUMS * sizeof(float))));

template <int FIRST, int... LANE>
inline GroupOfSums quarter_from(Vector vector, std::integer_sequence<int, LANE...>) {
  return __builtin_shufflevector(vector, vector, (FIRST + LANE)...);
}

template <int... QUARTER>
inline GroupOfSums add_quarters(Vector vector, std::integer_sequence<int, QUARTER...>) {
  return (quarter_from<4 * QUARTER>(vector, std::make_integer_sequence<int, 4>{}) + ...);
}

// The sums of the lanes of four vectors.
inline GroupOfSums sum_lanes_of(const Vector (&vectors)[GROUP_OF_SUMS]) {
  return add_quarters(sum_by_quarters(vectors), std::make_integer_sequence<int, LANES / 4>{});
}

// Whether gradients are those of the first panel, or are added to those of the panels before.
enum class Sum { STARTED, CONTINUED };

template <Sum SUM>
inline void write_gradient(float* to, float gradient) {
  *to = SUM == Sum::STARTED ? gradient : *to + gradient;
}

// The vectors of one feature, in registers.
template <int VECTORS>
struct Row {
  Vector vectors[VECTORS];

  inline __attribute__((always_inline)) explicit Row(const float* from) {
    for (int v = 0; v < VECTORS; v++) vectors[v] = load(from + v * LANES);
  }

  // The products with another feature, summed over its vectors but not over their lanes.
  inline __attribute__((always_inline)) Vector products(const float* from) const {
    from = pin_register(from);
    Vector total = vectors[0] * load(from);
#pragma GCC unroll 16
    for (int v = 1; v < VECTORS; v++) total += vectors[v] * load(from + v * LANES);
    return total;
  }
};

// Computes the gradients of the weights of the outputs [first, last), whose gradients `gradient` has alone. `Register`
// holds one of these in registers.
template <class Register, Sum SUM>
void weight_gradients(const TiledRows& weights, const ReadFeatures& x, const ReadFeatures& gradient, float* gradients,
                      int64_t first, int64_t last) {
  const uint16_t* columns = weights.columns;
  const RunPrefetcher prefetcher(weights);
  for (int64_t tile = 0; tile < weights.tiles(); tile++) {
    const uint32_t *starts = weights.starts + tile * weights.rows, *ends = starts + weights.rows;
    const ReadFeatures inputs = x.from(weights.segment_of(tile));
    for (int64_t output = first; output < last; output++) {
      const uint32_t later = starts[prefetcher.row_ahead(output)];
      prefetcher.request<true>(gradients + later), prefetcher.request(columns + later);
      const Register row(gradient.at(output - first));
      uint32_t k = starts[output];
      for (; k + GROUP_OF_SUMS <= ends[output]; k += GROUP_OF_SUMS) {
        Vector products[GROUP_OF_SUMS];
#pragma GCC unroll 4
        for (int i = 0; i < GROUP_OF_SUMS; i++) products[i] = row.products(inputs.at(columns[k + i]));
        GroupOfSums sums = sum_lanes_of(products), before;
        if (SUM == Sum::CONTINUED) __builtin_memcpy(&before, gradients + k, sizeof before), sums += before;
        __builtin_memcpy(gradients + k, &sums, sizeof sums);
      }
      for (; k < ends[output]; k++) write_gradient<SUM>(gradients + k, sum_lanes(row.products(inputs.at(columns[k]))));
    }
  }
}

// The gradients of the weights of the outputs [first, last) from one panel.
template <int VECTORS>
void weight_gradient_task(const LinearGradientsParams& params, const Panel& panel, const ReadFeatures& x, int64_t first,
                          int64_t last) {
  const TiledRows& weights = params.by_output;
  const int64_t weight_bytes = sizeof(float) + sizeof(uint16_t), output_bytes = VECTORS * sizeof(Vector);
  const int64_t block = rows_that_fit(weights, params.cache_bytes, weight_bytes, output_bytes);
  ReadFeatures gradient = features_of(params.gradient, params.vectors, panel).from(first);
  if (panel.count() < params.vectors) gradient = packed_copy<VECTORS>(panel_scratch().read, gradient, last - first);
  for (int64_t start = first; start < last; start += block) {
    const int64_t end = start + block < last ? start + block : last;
    const ReadFeatures given = gradient.from(start - first);
    panel.first ? weight_gradients<Row<VECTORS>, Sum::CONTINUED>(weights, x, given, params.weights, start, end)
                : weight_gradients<Row<VECTORS>, Sum::STARTED>(weights, x, given, params.weights, start, end);
  }
}

inline void weight_gradient(const LinearGradientsParams& params) {
  const int64_t outputs = params.by_output.rows, inputs = params.by_output.column_count, tasks = task_count(outputs);
  for (int64_t number = 0; number < panel_count(params.vectors); number++) {
    const Panel panel = panel_of(params.vectors, number);
    with_count_of(panel, [&](auto vectors) {
      constexpr int VECTORS = decltype(vectors)::value;
      const ReadFeatures x = shared_features<VECTORS>(params.x, params.vectors, panel, inputs, params.threads);
      parallel_for(tasks, params.threads, [&](int64_t task) {
        const int64_t first = outputs * task / tasks, last = outputs * (task + 1) / tasks;
        weight_gradient_task<VECTORS>(params, panel, x, first, last);
      });
    });
  }
}

}  // namespace SPARSECORE_VARIANT
