// The outputs of a linear layer: the sums of an output stay in registers through its weights in a tile of
// inputs, which stays in the cache through all outputs.
#pragma once

#include "linear/panels.hpp"

namespace SPARSECORE_VARIANT {

// Sums in registers. With few vectors the weights take turns between several sums, because the next addition to a sum
// has to wait for the last one.
template <int VECTORS>
struct RowSums {
  static constexpr int WAYS = VECTORS == 1 ? 4 : VECTORS <= 4 ? 2 : 1;
  Vector sums[WAYS][VECTORS];

  // Starts from memory, or from zeros where the address is null.
  inline __attribute__((always_inline)) explicit RowSums(const float* from) {
    for (int way = 0; way < WAYS; way++)
      for (int v = 0; v < VECTORS; v++) sums[way][v] = way || !from ? zeros() : load(from + v * LANES);
  }

  inline __attribute__((always_inline)) void add(float number) {
    for (int v = 0; v < VECTORS; v++) sums[0][v] += number;
  }

  // Adds value(k) * x for the weights [first, last).
  template <class Value>
  inline __attribute__((always_inline)) void add(const uint16_t* columns, Value value, const ReadFeatures& x,
                                                 uint32_t first, uint32_t last) {
    uint32_t k = first;
    for (; k + WAYS <= last; k += WAYS)
#pragma GCC unroll 4
      for (int way = 0; way < WAYS; way++) add_product(value(k + way), x.at(columns[k + way]), sums[way]);
    if (WAYS > 1)
      for (; k < last; k++) add_product(value(k), x.at(columns[k]), sums[0]);
  }

  inline __attribute__((always_inline)) void write(float* to) const {
    for (int v = 0; v < VECTORS; v++) {
      Vector total = sums[0][v];
      for (int way = 1; way < WAYS; way++) total += sums[way][v];
      store(to + v * LANES, total);
    }
  }

 private:
  inline __attribute__((always_inline)) static void add_product(float value, const float* from,
                                                                Vector (&sums)[VECTORS]) {
    from = pin_register(from);
#pragma GCC unroll 16
    for (int v = 0; v < VECTORS; v++) sums[v] += value * load(from + v * LANES);
  }
};

// What the sums of an output start from in a tile of inputs: those of the tile before, or what is added to the output.
struct Start {
  ReadFeatures add;
  const float* bias;

  const float* memory(int64_t tile, int64_t output, const float* out) const {
    return tile ? out : add ? add.at(output) : nullptr;
  }

  // Adds the bias of an output to its sums.
  template <class Sums>
  inline __attribute__((always_inline)) void add_bias(int64_t tile, int64_t output, Sums& sums) const {
    if (bias && !tile) sums.add(bias[output]);
  }
};

// Computes the outputs [first, last), which `out` has alone.
template <int VECTORS>
void multiply(const TiledRows& weights, const float* values, const ReadFeatures& x, const Start& start,
              const WrittenFeatures& out, int64_t first, int64_t last) {
  const RunPrefetcher prefetcher(weights);
  for (int64_t tile = 0; tile < weights.tiles(); tile++) {
    const uint32_t *starts = weights.starts + tile * weights.rows, *ends = starts + weights.rows;
    const ReadFeatures inputs = x.from(weights.segment_of(tile));
    for (int64_t output = first; output < last; output++) {
      const uint32_t later = starts[prefetcher.row_ahead(output)];
      prefetcher.request(values + later), prefetcher.request(weights.columns + later);
      float* to = out.at(output - first);
      RowSums<VECTORS> sums(start.memory(tile, output, to));
      start.add_bias(tile, output, sums);
      sums.add(weights.columns, [values](uint32_t k) { return values[k]; }, inputs, starts[output], ends[output]);
      sums.write(to);
    }
  }
}

// Adds the sums of some outputs and of their squares to `sums`, (outputs, 2).
template <int VECTORS>
void add_moments(const ReadFeatures& out, int64_t count, double* sums) {
  for (int64_t output = 0; output < count; output++) {
    const float* from = out.at(output);
    Vector total = zeros(), squares = zeros();
    for (int v = 0; v < VECTORS; v++) {
      const Vector one = load(from + v * LANES);
      total += one, squares += one * one;
    }
    sums[2 * output] += sum(total), sums[2 * output + 1] += sum(squares);
  }
}

// Sets the lanes of a batch's last vector that hold no member of it to zero, where the bias was added to them.
template <int VECTORS>
void clear_unused_lanes(const LinearParams& params, const Panel& panel, const WrittenFeatures& out, int64_t count) {
  if (!params.bias || panel.last < params.vectors || params.last_lanes == LANES) return;
  for (int64_t output = 0; output < count; output++) {
    float* last = out.at(output) + (VECTORS - 1) * LANES;
    store(last, first_lanes(load(last), static_cast<int>(params.last_lanes)));
  }
}

// Computes the outputs [first, last) of a panel, and their moments if `sums` is not null.
template <int VECTORS>
void forward_task(const LinearParams& params, const Panel& panel, const ReadFeatures& x, int64_t first, int64_t last,
                  double* sums) {
  const int64_t weight_bytes = sizeof(float) + sizeof(uint16_t), output_bytes = VECTORS * sizeof(Vector);
  const int64_t block = rows_that_fit(params.by_output, params.cache_bytes, weight_bytes, output_bytes);
  const bool packed = panel.count() < params.vectors;
  const Start start_from{features_of(params.add, params.vectors, panel), params.bias};
  const WrittenFeatures target = features_of(params.out, params.vectors, panel);
  for (int64_t i = 2 * first; sums && i < 2 * last; i++) sums[i] = 0;
  for (int64_t start = first; start < last; start += block) {
    const int64_t end = start + block < last ? start + block : last;
    WrittenFeatures out = target.from(start);
    if (packed) out = packed_features<VECTORS>(panel_scratch().written, end - start);
    multiply<VECTORS>(params.by_output, params.values, x, start_from, out, start, end);
    clear_unused_lanes<VECTORS>(params, panel, out, end - start);
    const ReadFeatures made{out.data, out.stride};
    if (sums) add_moments<VECTORS>(made, end - start, sums + 2 * start);
    if (packed) copy_features<VECTORS>(made, target.from(start), end - start);
  }
}

// Calls compute(count of vectors as a constant, panel, tasks, threads, sums) for each panel. Threads share the outputs
// of each panel or, where there are many of them, the panels. Adds up the panels' sums.
template <class Compute>
void for_each_panel(const LinearParams& params, Compute compute) {
  const int64_t outputs = params.by_output.rows;
  const int64_t panels = panel_count(params.vectors), tasks = task_count(outputs);
  // the sums of each panel, which are added up in one order for every number of threads
  static thread_local Scratch scratch;
  double* partial = params.sums ? reinterpret_cast<double*>(scratch.request(panels * outputs * 4)) : nullptr;
  const auto compute_panel = [&](int64_t number, int64_t tasks, int threads) {
    const Panel panel = panel_of(params.vectors, number);
    double* sums = partial ? partial + number * outputs * 2 : nullptr;
    with_count_of(panel, [&](auto vectors) { compute(vectors, panel, tasks, threads, sums); });
  };
  if (panels >= TASKS)
    parallel_for(panels, params.threads, [&](int64_t number) { compute_panel(number, 1, 1); });
  else
    for (int64_t number = 0; number < panels; number++) compute_panel(number, tasks, params.threads);
  for (int64_t number = 0; partial && number < panels; number++)
    for (int64_t i = 0; i < 2 * outputs; i++) params.sums[i] += partial[number * outputs * 2 + i];
}

inline void forward(const LinearParams& params) {
  for_each_panel(params, [&](auto vectors, const Panel& panel, int64_t tasks, int threads, double* sums) {
    constexpr int VECTORS = decltype(vectors)::value;
    const int64_t outputs = params.by_output.rows;
    const ReadFeatures x =
        shared_features<VECTORS>(params.x, params.vectors, panel, params.by_output.column_count, threads);
    parallel_for(tasks, threads, [&](int64_t task) {
      const int64_t first = outputs * task / tasks, last = outputs * (task + 1) / tasks;
      forward_task<VECTORS>(params, panel, x, first, last, sums);
    });
  });
}

}  // namespace SPARSECORE_VARIANT
