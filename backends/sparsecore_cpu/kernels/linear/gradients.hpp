// The gradients of the inputs of a linear layer, and with them those of the weights: the sums of an input stay
// in registers through its weights in a tile of outputs, whose gradients stay in the cache through all inputs.
#pragma once

#include <cstring>

#include "linear/weight_gradient.hpp"

namespace SPARSECORE_VARIANT {

// Walks through weights input by input: the position of the next weight of each output from the first of a segment on,
// and what lies at the positions.
struct WeightCursor {
  uint32_t* next;
  const float* values;
  float* gradients;

  // The position of an output's next weight, which is asked for once.
  inline __attribute__((always_inline)) uint32_t position(uint16_t output) const { return next[output]++; }
};

// The weights of a tile of outputs that read a range of inputs. Those of an output are one piece of the list, and those
// of an input are spread over the pieces. Pieces that would collide in caches are copied behind one another.
class WeightPieces {
 public:
  // The piece of an output is that from starts[output] to ends[output].
  WeightPieces(const TiledRows& by_input, int64_t tile, const uint32_t* starts, const uint32_t* ends, bool copied)
      : copied_(copied),
        segment_(by_input.segment_of(tile)),
        first_(by_input.first_column(tile)),
        last_(by_input.last_column(tile)),
        starts_(starts),
        ends_(ends) {}

  // Begins with the first weight of each piece. `gradients` may be null.
  void start(const float* values, float* gradients) {
    static thread_local Scratch next, value_copy, gradient_copy;
    cursor_ = {reinterpret_cast<uint32_t*>(next.request(last_ - segment_)), values, gradients};
    if (!copied_) {
      for (int64_t output = first_; output < last_; output++) cursor_.next[output - segment_] = starts_[output];
      return;
    }
    int64_t size = 0;
    for (int64_t output = first_; output < last_; output++) size += copied_length(output);
    float* copy = value_copy.request(size);
    if (gradients) cursor_.gradients = gradient_copy.request(size);
    for_each_copied([&](int64_t output, uint32_t position) {
      cursor_.next[output - segment_] = position;
      std::memcpy(copy + position, values + starts_[output], length(output) * sizeof(float));
    });
    cursor_.values = copy;
  }

  const WeightCursor& cursor() const { return cursor_; }

  // Writes the gradients that were copied, or adds them.
  void finish(float* gradients, Sum sum) const {
    if (!copied_) return;
    for_each_copied([&](int64_t output, uint32_t position) {
      float* to = gradients + starts_[output];
      const float* from = cursor_.gradients + position;
      if (sum == Sum::STARTED)
        std::memcpy(to, from, length(output) * sizeof(float));
      else
        for (uint32_t k = 0; k < length(output); k++) to[k] += from[k];
    });
  }

 private:
  uint32_t length(int64_t output) const { return ends_[output] - starts_[output]; }

  // Copies of equal length are no multiple of several cache lines apart.
  uint32_t copied_length(int64_t output) const {
    constexpr uint32_t LINE = 16;
    return length(output) % LINE ? length(output) : length(output) + LINE;
  }

  template <class Visit>
  void for_each_copied(Visit visit) const {
    uint32_t position = 0;
    for (int64_t output = first_; output < last_; output++) {
      visit(output, position);
      position += copied_length(output);
    }
  }

  bool copied_;
  int64_t segment_, first_, last_;
  const uint32_t *starts_, *ends_;
  WeightCursor cursor_{};
};

// Whether the pieces of outputs lie so regularly, as in a dense matrix, that they share few of a cache's sets.
inline bool collide_in_caches(const TiledRows& ranges) {
  constexpr int64_t LOOKED_AT = 8;
  constexpr uint32_t FLOATS = 256;
  const int64_t last = ranges.rows - 1 < LOOKED_AT ? ranges.rows - 1 : LOOKED_AT;
  const auto distance = [&](int64_t output) { return ranges.starts[output + 1] - ranges.starts[output]; };
  for (int64_t output = 0; output < last; output++)
    if (distance(output) != distance(0) || distance(output) % FLOATS) return false;
  return last > 0 && distance(0) > 0;
}

// What the gradients of a range of inputs are computed from. All features are counted from the first input, or output.
struct InputRange {
  TiledRows by_input;
  const uint32_t *starts, *ends;  // the weights of every output in this range
  int64_t first, last;
  const float* values;
  ReadFeatures x, gradient, add;
  WrittenFeatures inputs;
  float* weights;

  Sum sum;      // whether `weights` has gradients that these are added to
  bool copied;  // whether pieces of the weights are copied

  // Calls visit(input, address of its sums, where they start, gradients of the segment, cursor, first, last weight).
  template <class Visit>
  void for_each_run(Visit visit) const {
    const RunPrefetcher prefetcher(by_input);
    for (int64_t tile = 0; tile < by_input.tiles(); tile++) {
      const uint32_t *run_starts = by_input.starts + tile * by_input.rows, *run_ends = run_starts + by_input.rows;
      const ReadFeatures outputs = gradient.from(by_input.segment_of(tile));
      WeightPieces pieces(by_input, tile, starts, ends, copied);
      pieces.start(values, weights);
      const WeightCursor cursor = pieces.cursor();
      for (int64_t input = first; input < last; input++) {
        prefetcher.request(by_input.columns + run_starts[prefetcher.row_ahead(input)]);
        float* to = inputs.at(input - first);
        const float* from = tile ? to : add ? add.at(input - first) : nullptr;
        visit(input - first, to, from, outputs, cursor, run_starts[input], run_ends[input]);
      }
      if (weights) pieces.finish(weights, sum);
    }
  }
};

// The weights that follow one in a list are needed by the inputs that follow.
constexpr int NEXT_LINE = 16;

template <int VECTORS>
void input_gradients(const InputRange& range) {
  const uint16_t* columns = range.by_input.columns;
  range.for_each_run([=](int64_t, float* to, const float* from, const ReadFeatures& gradient, WeightCursor cursor,
                         uint32_t first, uint32_t last) {
    RowSums<VECTORS> sums(from);
    const auto value = [=](uint32_t k) __attribute__((always_inline)) {
      const uint32_t position = cursor.position(columns[k]);
      __builtin_prefetch(cursor.values + position + NEXT_LINE);
      return cursor.values[position];
    };
    sums.add(columns, value, gradient, first, last);
    sums.write(to);
  });
}

// Both gradients: each gradient of an output that is read is multiplied by the weight and by the input.
template <int VECTORS, Sum SUM>
void both_gradients(const InputRange& range) {
  const uint16_t* columns = range.by_input.columns;
  const ReadFeatures x = range.x;
  range.for_each_run([=](int64_t input, float* to, const float* from, const ReadFeatures& gradient, WeightCursor cursor,
                         uint32_t first, uint32_t last) {
    const Row<VECTORS> row(x.at(input));
    Vector sums[VECTORS];
    for (int v = 0; v < VECTORS; v++) sums[v] = from ? load(from + v * LANES) : zeros();
    const auto visit = [&](uint32_t k, uint32_t& position) __attribute__((always_inline)) {
      const float* read = pin_register(gradient.at(columns[k]));
      position = cursor.position(columns[k]);
      __builtin_prefetch(cursor.values + position + NEXT_LINE);
      __builtin_prefetch(cursor.gradients + position + NEXT_LINE, 1);
      const float value = cursor.values[position];
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
      uint32_t positions[GROUP_OF_SUMS];
#pragma GCC unroll 4
      for (int i = 0; i < GROUP_OF_SUMS; i++) products[i] = visit(k + i, positions[i]);
      const GroupOfSums lanes = sum_lanes_of(products);
#pragma GCC unroll 4
      for (int i = 0; i < GROUP_OF_SUMS; i++) write_gradient<SUM>(cursor.gradients + positions[i], lanes[i]);
    }
    for (uint32_t position; k < last; k++) {
      const Vector products = visit(k, position);
      write_gradient<SUM>(cursor.gradients + position, sum_lanes(products));
    }
    for (int v = 0; v < VECTORS; v++) store(to + v * LANES, sums[v]);
  });
}

// The gradients from one panel of the inputs of a tile of `ranges`, and of their weights if `sums` has memory for them.
template <int VECTORS>
void gradients_task(const LinearGradientsParams& params, const Panel& panel, const PanelSums& sums,
                    const ReadFeatures& gradient, int64_t tile) {
  const bool both = sums.weights;
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
  range.ends = range.starts + params.ranges.rows;
  range.first = first, range.last = last;
  range.values = params.values, range.weights = sums.weights;
  range.x = x, range.gradient = gradient, range.inputs = inputs;
  if (add) range.add = add.from(first);
  range.sum = sums.sum;
  range.copied = collide_in_caches(params.ranges);
  if constexpr (GRADIENTS_TOGETHER) {
    // copies are added to the list when they are complete
    if (both && sums.sum == Sum::CONTINUED && !range.copied)
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
  for_each_panel_of_gradients(params, both ? params.weights : nullptr,
                              [&](auto vectors, const Panel& panel, const PanelSums& sums, int threads) {
                                constexpr int VECTORS = decltype(vectors)::value;
                                const ReadFeatures gradient =
                                    shared_features<VECTORS>(params.gradient, params.vectors, panel, outputs, threads);
                                parallel_for(params.ranges.tiles(), threads, [&](int64_t tile) {
                                  gradients_task<VECTORS>(params, panel, sums, gradient, tile);
                                });
                              });
}

inline void gradients(const LinearGradientsParams& params) {
  const bool both = GRADIENTS_TOGETHER && params.inputs && params.weights;
  if (params.inputs) input_gradient(params, both);
  if (params.weights && !both) weight_gradient(params);
}

}  // namespace SPARSECORE_VARIANT
