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

// Where most weights exist: the gradients of BUNDLE places by BUNDLE output channels stay in registers while the pixels of
// a part pass by.
struct BundledGradient {
  Pixels x, gradient;
  List list;
  Part part;
  int64_t width, channels;
  float* gradients;  // (places, BUNDLE)

  void compute(int64_t first_channel, int64_t last_channel) {
    const int64_t bundles = (channels + BUNDLE - 1) / BUNDLE;
    for (int64_t input = 0; input < list.input_blocks; input++)
      for (int64_t first = first_channel; first < last_channel; first += BUNDLE) {
        const int32_t* pointers = list.pointers + input * bundles + first / BUNDLE;
        const int full = first + BUNDLE <= last_channel ? BUNDLE : static_cast<int>(last_channel - first);
        int32_t k = pointers[0];
        for (; k + BUNDLE <= pointers[1]; k += BUNDLE) places<BUNDLE>(k, first, full);
        for (; k < pointers[1]; k++) places<1>(k, first, full);
      }
  }

 private:
  template <int PLACES>
  void places(int32_t k, int64_t first, int full) {
    Vector sums[PLACES][BUNDLE];
    for (auto& of_place : sums)
      for (auto& sum : of_place) sum = zeros();
    const float *from[PLACES], *given[BUNDLE];
    for (int64_t row = part.first_row; row < part.last_row; row++) {
      const float* start = at(x, part.block, row, 0).data;
      // a bundle that is not full takes its last channel several times
      for (int channel = 0; channel < BUNDLE; channel++)
        given[channel] = at(gradient, part.block, row, 0).data +
                         (first + (channel < full ? channel : full - 1)) * gradient.channel;
      for (int place = 0; place < PLACES; place++) from[place] = start + list.offsets[k + place];
      for (int64_t column = 0; column < width; column++)
#pragma GCC unroll 4
        for (int place = 0; place < PLACES; place++) {
          const Vector pixel = load(from[place] + column * x.pixel);
#pragma GCC unroll 4
          for (int channel = 0; channel < BUNDLE; channel++)
            sums[place][channel] += pixel * load(given[channel] + column * gradient.pixel);
        }
    }
    for (int place = 0; place < PLACES; place++)
      for (int channel = 0; channel < BUNDLE; channel++)
        gradients[(static_cast<int64_t>(k) + place) * BUNDLE + channel] = channel < full ? folded(sums[place][channel]) : 0;
  }
};

// The gradients of each part of the work, which come to the whole in one order whatever the threads.
class PartialGradients {
 public:
  PartialGradients(const List& list, const Extent& extent)
      : list_(list), extent_(extent), channels_(list.bundled ? BUNDLE : 1),
        groups_((extent.channels + channels_ - 1) / channels_),
        weights_(list.pointers[list.input_blocks * groups_] * static_cast<int64_t>(channels_)),
        partial_(room(parts(extent) * weights_)) {}

  // Those of the output channels [first, last) from one part.
  void compute(const Pixels& x, const Pixels& gradient, int64_t number, int64_t first, int64_t last) {
    const Part part = part_of(extent_, number);
    float* own = partial_ + number * weights_;
    if (list_.bundled) {
      BundledGradient{x, gradient, list_, part, extent_.width, extent_.channels, own}.compute(first, last);
      return;
    }
    static thread_local Scratch scratch;
    float* vectors = scratch.of(weights_ * LANES);
    each_weight(first, last, [&](int64_t k) { store(vectors + k * LANES, zeros()); });
    cover(part.first_row, part.last_row, extent_.width,
          WeightGradient{x, gradient, list_, part.block, extent_.channels, first, last, vectors});
    each_weight(first, last, [&](int64_t k) { own[k] = folded(load(vectors + k * LANES)); });
  }

  void add_up(float* gradients) const {
    for (int64_t k = 0; k < weights_; k++) gradients[k] = 0;
    for (int64_t part = 0; part < parts(extent_); part++)
      for (int64_t k = 0; k < weights_; k++) gradients[k] += partial_[part * weights_ + k];
  }

 private:
  template <class Visit>
  void each_weight(int64_t first, int64_t last, Visit visit) const {
    for (int64_t input = 0; input < list_.input_blocks; input++) {
      const int32_t* groups = list_.pointers + input * extent_.channels;
      for (int64_t k = groups[first]; k < groups[last]; k++) visit(k);
    }
  }

  // The calling thread's, for all its calls: memory fresh from the system costs more than what is computed in it.
  static float* room(int64_t count) {
    static thread_local Scratch scratch;
    return scratch.of(count);
  }

  List list_;
  Extent extent_;
  int channels_;
  int64_t groups_, weights_;
  float* partial_;
};

inline void weight_gradient(const Input& x, const Input& gradient, List list, float* gradients, Extent extent,
                            int threads) {
  PartialGradients partial(list, extent);
  const int64_t cuts = channel_parts(extent);
  in_parallel(parts(extent) * cuts, threads, [&](int64_t task) {
    static thread_local Scratch x_scratch, gradient_scratch;
    const int64_t number = task / cuts, cut = task % cuts;
    const Part part = part_of(extent, number);
    partial.compute(prepared(x, extent, part, x_scratch), prepared(gradient, extent, part, gradient_scratch), number,
                    channel_cut(extent, cut, cuts), channel_cut(extent, cut + 1, cuts));
  });
  partial.add_up(gradients);
}

}  // namespace SPARSECORE_VARIANT
