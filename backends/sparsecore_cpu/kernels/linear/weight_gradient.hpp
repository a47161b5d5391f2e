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

// Where gradients of weights from one panel go, and whether they are added to those that are there.
struct PanelSums {
  float* weights;
  Sum sum;
};

template <class Register>
void weight_gradients(const TiledRows& weights, const ReadFeatures& x, const ReadFeatures& gradient,
                      const PanelSums& sums, int64_t first, int64_t last) {
  sums.sum == Sum::CONTINUED
      ? weight_gradients<Register, Sum::CONTINUED>(weights, x, gradient, sums.weights, first, last)
      : weight_gradients<Register, Sum::STARTED>(weights, x, gradient, sums.weights, first, last);
}

// Adds sums of as many groups, each of so many weights, to those of the weights.
inline void add_groups(const float* groups, int64_t group_count, int64_t count, float* weights, int threads) {
  constexpr int64_t CHUNK = 2048;
  parallel_for((count + CHUNK - 1) / CHUNK, threads, [&](int64_t chunk) {
    const int64_t first = chunk * CHUNK, last = first + CHUNK < count ? first + CHUNK : count;
    for (int64_t group = 0; group < group_count; group++)
      for (int64_t k = first; k < last; k++) weights[k] += groups[group * count + k];
  });
}

// Into how many groups the panels of a batch are divided, by their number and that of the weights: as many tasks as
// keep threads busy, unless there are so many weights that a sum for each group would take much memory. It does not
// depend on the number of threads, as the order of the sums does not.
inline int64_t panel_group_count(int64_t panels, int64_t weights) {
  constexpr int64_t FEWEST_PANELS = 8, MOST_WEIGHTS = 1 << 17;
  if (panels < FEWEST_PANELS || weights > MOST_WEIGHTS) return 1;
  return panels / 2 < TASKS ? panels / 2 : TASKS;
}

// Calls compute(count of vectors as a constant, panel, sums, threads) for each panel. Where there are few panels or
// many weights, threads share the work of each panel. Elsewhere they share groups of panels, so that they wait for each
// other once, and each reads what it has written itself; each group adds up its own gradients of the weights, if
// `weights` is not null, and those of the groups are added up at last.
template <class Compute>
void for_each_panel_of_gradients(const LinearGradientsParams& params, float* weights, Compute compute) {
  const int64_t panels = panel_count(params.vectors), count = params.by_output.count();
  const int64_t groups = panel_group_count(panels, count);
  static thread_local Scratch scratch;
  float* const others = weights && groups > 1 ? scratch.request((groups - 1) * count) : nullptr;
  const auto compute_group = [&](int64_t group, int threads) {
    const int64_t first = panels * group / groups, last = panels * (group + 1) / groups;
    float* const own = others && group ? others + (group - 1) * count : weights;
    for (int64_t number = first; number < last; number++) {
      const Panel panel = panel_of(params.vectors, number);
      const PanelSums sums{own, number == first ? Sum::STARTED : Sum::CONTINUED};
      with_count_of(panel, [&](auto vectors) { compute(vectors, panel, sums, threads); });
    }
  };
  if (groups == 1) return compute_group(0, params.threads);
  parallel_for(groups, params.threads, [&](int64_t group) { compute_group(group, 1); });
  if (others) add_groups(others, groups - 1, count, weights, params.threads);
}

// The gradients of the weights of the outputs [first, last) from one panel.
template <int VECTORS>
void weight_gradient_task(const LinearGradientsParams& params, const Panel& panel, const PanelSums& sums,
                          const ReadFeatures& x, int64_t first, int64_t last) {
  const TiledRows& weights = params.by_output;
  const int64_t weight_bytes = sizeof(float) + sizeof(uint16_t), output_bytes = VECTORS * sizeof(Vector);
  const int64_t block = rows_that_fit(weights, params.cache_bytes, weight_bytes, output_bytes);
  ReadFeatures gradient = features_of(params.gradient, params.vectors, panel).from(first);
  if (panel.count() < params.vectors) gradient = packed_copy<VECTORS>(panel_scratch().read, gradient, last - first);
  for (int64_t start = first; start < last; start += block) {
    const int64_t end = start + block < last ? start + block : last;
    weight_gradients<Row<VECTORS>>(weights, x, gradient.from(start - first), sums, start, end);
  }
}

inline void weight_gradient(const LinearGradientsParams& params) {
  const int64_t outputs = params.by_output.rows, inputs = params.by_output.column_count, tasks = task_count(outputs);
  for_each_panel_of_gradients(
      params, params.weights, [&](auto vectors, const Panel& panel, const PanelSums& sums, int threads) {
        constexpr int VECTORS = decltype(vectors)::value;
        const ReadFeatures x = shared_features<VECTORS>(params.x, params.vectors, panel, inputs, threads);
        parallel_for(tasks, threads, [&](int64_t task) {
          const int64_t first = outputs * task / tasks, last = outputs * (task + 1) / tasks;
          weight_gradient_task<VECTORS>(params, panel, sums, x, first, last);
        });
      });
}

}  // namespace SPARSECORE_VARIANT
