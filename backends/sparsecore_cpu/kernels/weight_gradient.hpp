// The gradients of the weights that exist, and of no others.
#pragma once

#include "prepared.hpp"

namespace SPARSECORE_VARIANT {

// Each weight's products add up in a vector of its own over all tiles of a part.
struct WeightGradient {
  Pixels x, gradient;
  List list;
  int64_t block, channels, first_channel, last_channel;
  float* vectors;  // (weights, LANES)

  template <int ROWS, int COLUMNS>
  void tile(int64_t row, int64_t column) {
    const float* from = at(x, block, row, column).data;
    const float* gradients = at(gradient, block, row, column).data;
    for (int64_t input = 0; input < list.input_blocks; input++) {
      const int32_t* groups = list.pointers + input * channels;
      for (int64_t channel = first_channel; channel < last_channel; channel++)
        if (groups[channel] < groups[channel + 1])
          group<ROWS, COLUMNS>(from, gradients + channel * gradient.channel, groups[channel], groups[channel + 1]);
    }
  }

 private:
  template <int ROWS, int COLUMNS>
  inline __attribute__((always_inline)) void group(const float* from, const float* gradients, int32_t first,
                                                   int32_t last) {
    constexpr int CHAINS = ROWS * COLUMNS < 4 ? ROWS * COLUMNS : 4;  // sums that do not wait for each other
    Vector outputs[ROWS * COLUMNS];
    for (int r = 0; r < ROWS; r++)
      for (int c = 0; c < COLUMNS; c++)
        outputs[r * COLUMNS + c] = load(gradients + r * gradient.row + c * gradient.pixel);
    for (int32_t k = first; k < last; k++) {
      const float* place = from + list.offsets[k];
      Vector sums[CHAINS] = {load(vectors + static_cast<int64_t>(k) * LANES)};
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 16
        for (int c = 0; c < COLUMNS; c++)
          sums[(r * COLUMNS + c) % CHAINS] += outputs[r * COLUMNS + c] * load(place + r * x.row + c * x.pixel);
      for (int chain = 1; chain < CHAINS; chain++) sums[0] += sums[chain];
      store(vectors + static_cast<int64_t>(k) * LANES, sums[0]);
    }
  }
};

inline int32_t first_weight(const List& list, const Extent& extent, int64_t input, int64_t channel) {
  return list.pointers[input * extent.channels + channel];
}

inline void weight_gradient(const Input& x, const Input& gradient, List list, float* gradients, Extent extent,
                            int threads) {
  const int64_t weights = list.pointers[list.input_blocks * extent.channels];
  const int64_t count = parts(extent), cuts = channel_parts(extent);
  const Aligned partial = aligned(count * weights);
  in_parallel(count * cuts, threads, [&](int64_t task) {
    static thread_local Scratch vector_scratch, x_scratch, gradient_scratch;
    float* vectors = vector_scratch.of(weights * LANES);
    const Part part = part_of(extent, task / cuts);
    const int64_t cut = task % cuts;
    const int64_t first = extent.channels * cut / cuts, last = extent.channels * (cut + 1) / cuts;
    float* own = partial.get() + task / cuts * weights;
    const auto each_weight = [&](auto&& visit) {
      for (int64_t input = 0; input < list.input_blocks; input++)
        for (int64_t k = first_weight(list, extent, input, first); k < first_weight(list, extent, input, last); k++)
          visit(k);
    };
    each_weight([&](int64_t k) { store(vectors + k * LANES, zeros()); });
    const Pixels read = prepared(x, extent, part, x_scratch);
    const Pixels given = prepared(gradient, extent, part, gradient_scratch);
    cover(part.first_row, part.last_row, extent.width,
          WeightGradient{read, given, list, part.block, extent.channels, first, last, vectors});
    each_weight([&](int64_t k) { own[k] = folded(load(vectors + k * LANES)); });
  });
  for (int64_t k = 0; k < weights; k++) {
    float total = 0;
    for (int64_t part = 0; part < count; part++) total += partial[part * weights + k];
    gradients[k] = total;
  }
}

}  // namespace SPARSECORE_VARIANT
