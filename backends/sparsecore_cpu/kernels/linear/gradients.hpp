// The gradients of the inputs of a sparse linear layer, and with them those of the weights: the sums of an input stay
// in registers through its weights in a tile of outputs, whose gradients stay in the cache through all inputs.
#pragma once

#include "linear/weight_gradient.hpp"

namespace SPARSECORE_VARIANT {

// The numbers of the weights that inputs read, input by input: for each output of a tile the number of its next weight.
// That of a weight is asked for once, in the order of the inputs.
class WeightNumbers {
 public:
  // The outputs of a tile; `starts` has the number of the first weight of every output.
  WeightNumbers(const TiledRows& by_input, int64_t tile, const uint32_t* starts) {
    static thread_local Scratch scratch;
    const int64_t segment = by_input.segment_of(tile), last = by_input.last_column(tile);
    next_ = reinterpret_cast<uint32_t*>(scratch.request(last - segment));
    for (int64_t output = by_input.first_column(tile); output < last; output++)
      next_[output - segment] = starts[output];
  }

  uint32_t next(uint16_t output) const { return next_[output]++; }

 private:
  uint32_t* next_;  // of the first output of the segment
};

// What the gradients of a range of inputs are computed from. All features are counted from the first input, or output.
struct InputRange {
  TiledRows by_input;
  const uint32_t* starts;  // the number of the first weight of every output in this range
  int64_t first, last;
  const float* values;
  ReadFeatures x, gradient, add;
  WrittenFeatures inputs;
  float* weights;

  // Calls visit(input, address of its sums, where they start, gradients of the segment, numbers, first, last weight).
  template <class Visit>
  void for_each_run(Visit visit) const {
    const RunPrefetcher prefetcher(by_input);
    for (int64_t tile = 0; tile < by_input.tiles(); tile++) {
      const uint32_t *run_starts = by_input.starts + tile * by_input.rows, *run_ends = run_starts + by_input.rows;
      const ReadFeatures outputs = gradient.from(by_input.segment_of(tile));
      const WeightNumbers numbers(by_input, tile, starts);
      for (int64_t input = first; input < last; input++) {
        prefetcher.request(by_input.columns + run_starts[prefetcher.row_ahead(input)]);
        float* to = inputs.at(input - first);
        const float* from = tile ? to : add ? add.at(input - first) : nullptr;
        visit(input - first, to, from, outputs, numbers, run_starts[input], run_ends[input]);
      }
    }
  }
};

// The weights of an output that follow one are needed by the inputs that follow.
constexpr int NEXT_LINE = 16;

template <int VECTORS>
void input_gradients(const InputRange& range) {
  const uint16_t* columns = range.by_input.columns;
  const float* values = range.values;
  range.for_each_run([=](int64_t, float* to, const float* from, const ReadFeatures& gradient,
                         const WeightNumbers& numbers, uint32_t first, uint32_t last) {
    RowSums<VECTORS> sums(from);
    const auto value = [&](uint32_t k) __attribute__((always_inline)) {
      const uint32_t number = numbers.next(columns[k]);
      __builtin_prefetch(values + number + NEXT_LINE);
      return values[number];
    };
    sums.add(columns, value, gradient, first, last);
    sums.write(to);
  });
}

// Both gradients: each gradient of an output that is read is multiplied by the weight and by the input.
template <int VECTORS, Sum SUM>
void both_gradients(const InputRange& range) {
  const uint16_t* columns = range.by_input.columns;
  const float* values = range.values;
  float* weights = range.weights;
  range.for_each_run([=, &range](int64_t input, float* to, const float* from, const ReadFeatures& gradient,
                                 const WeightNumbers& numbers, uint32_t first, uint32_t last) {
    const Row<VECTORS> row(range.x.at(input));
    Vector sums[VECTORS];
    for (int v = 0; v < VECTORS; v++) sums[v] = from ? load(from + v * LANES) : zeros();
    const auto visit = [&](uint32_t k, uint32_t& number) __attribute__((always_inline)) {
      const float* read = pin_register(gradient.at(columns[k]));
      number = numbers.next(columns[k]);
      __builtin_prefetch(values + number + NEXT_LINE), __builtin_prefetch(weights + number + NEXT_LINE, 1);
      const float value = values[number];
      Vector products = zeros();
#pragma GCC unroll 16
      for (int v = 0; v < VECTORS; v++) {
        const Vector one = load(read + v * LANES);
        sums[v] += value * one;
        products = v ? products + row.vectors[v] * one : row.vectors[v] * one;
      }
      return products;
    };
    uint32_t k = first;
    for (; k + GROUP_OF_SUMS <= last; k += GROUP_OF_SUMS) {
      Vector products[GROUP_OF_SUMS];
      uint32_t group[GROUP_OF_SUMS];
#pragma GCC unroll 4
      for (int i = 0; i < GROUP_OF_SUMS; i++) products[i] = visit(k + i, group[i]);
      const GroupOfSums lanes = sum_lanes_of(products);
#pragma GCC unroll 4
      for (int i = 0; i < GROUP_OF_SUMS; i++) write_gradient<SUM>(weights + group[i], lanes[i]);
    }
    for (uint32_t number; k < last; k++) {
      const Vector products = visit(k, number);
      write_gradient<SUM>(weights + number, sum_lanes(products));
    }
    for (int v = 0; v < VECTORS; v++) store(to + v * LANES, sums[v]);
  });
}

// The gradients from one panel of the inputs of a tile of `ranges`, and of their weights if `both`.
template <int VECTORS>
void gradients_task(const LinearGradientsParams& params, const Panel& panel, const ReadFeatures& gradient, int64_t tile,
                    bool both) {
  const int64_t first = params.ranges.first_column(tile), last = params.ranges.last_column(tile), count = last - first;
  const WrittenFeatures target = features_of(params.inputs, params.vectors, panel).from(first);
  const ReadFeatures add = features_of(params.add, params.vectors, panel);
  ReadFeatures x = features_of(params.x, params.vectors, panel);
  if (both) x = x.from(first);
  WrittenFeatures inputs = target;
  const bool packed = panel.count() < params.vectors;
  if (packed && both) x = packed_copy<VECTORS>(panel_scratch().read, x, count);
  if (packed) inputs = packed_features<VECTORS>(panel_scratch().written, count);
  InputRange range{};
  range.by_input = params.by_input, range.starts = params.ranges.starts + tile * params.ranges.rows;
  range.first = first, range.last = last;
  range.values = params.values, range.weights = params.weights;
  range.x = x, range.gradient = gradient, range.inputs = inputs;
  if (add) range.add = add.from(first);
  if constexpr (GRADIENTS_TOGETHER) {
    if (both && panel.first)
      both_gradients<VECTORS, Sum::CONTINUED>(range);
    else if (both)
      both_gradients<VECTORS, Sum::STARTED>(range);
    else
      input_gradients<VECTORS>(range);
  } else {
    input_gradients<VECTORS>(range);
  }
  if (packed) copy_features<VECTORS>({inputs.data, inputs.stride}, target, count);
}

inline void input_gradient(const LinearGradientsParams& params, bool both) {
  const int64_t outputs = params.ranges.rows;
  for (int64_t number = 0; number < panel_count(params.vectors); number++) {
    const Panel panel = panel_of(params.vectors, number);
    with_count_of(panel, [&](auto vectors) {
      constexpr int VECTORS = decltype(vectors)::value;
      const ReadFeatures gradient =
          shared_features<VECTORS>(params.gradient, params.vectors, panel, outputs, params.threads);
      parallel_for(params.ranges.tiles(), params.threads,
                   [&](int64_t tile) { gradients_task<VECTORS>(params, panel, gradient, tile, both); });
    });
  }
}

inline void gradients(const LinearGradientsParams& params) {
  const bool both = GRADIENTS_TOGETHER && params.inputs && params.weights;
  if (params.inputs) input_gradient(params, both);
  if (params.weights && !both) weight_gradient(params);
}

}  // namespace SPARSECORE_VARIANT
