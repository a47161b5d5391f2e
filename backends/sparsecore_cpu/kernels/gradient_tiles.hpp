// Products of inputs and outputs' gradients, added up over pixels for the weights that exist.
#pragma once

#include "prepared.hpp"

namespace SPARSECORE_VARIANT {

// The products of FOUR weights of a group at a time add up over all tiles of a part: in one vector, by quarters, so
// that few of them leave the nearest cache.
constexpr int FOUR = 4;

// Where the sums of a group's weights from its k-th on lie; groups, numbered, never share one.
inline int64_t place_of_sums(int32_t first, int32_t k, int64_t group) {
  return (first / FOUR + group + (k - first) / FOUR) * LANES;
}

template <class Spacing>
struct WeightGradient {
  Floats x, gradient;
  List list;
  int64_t block, channels, first_channel, last_channel;
  float* sums;
  Ahead& ahead;

  template <int ROWS, int COLUMNS>
  void tile(int64_t row, int64_t column) {
    const float* from = at(x, block, row, column);
    const float* gradients = at(gradient, block, row, column);
    for (int64_t input = 0; input < list.input_blocks; input++) {
      const int32_t* groups = list.pointers + input * channels;
      for (int64_t channel = first_channel; channel < last_channel; channel++, ahead.step())
        if (groups[channel] < groups[channel + 1])
          group<ROWS, COLUMNS>(from, gradients + channel * gradient.channel, groups[channel], groups[channel + 1],
                               input * channels + channel);
    }
  }

 private:
  template <int ROWS, int COLUMNS>
  inline __attribute__((always_inline)) void group(const float* from, const float* gradients, int32_t first,
                                                   int32_t last, int64_t number) {
    Vector outputs[ROWS * COLUMNS];
    for (int r = 0; r < ROWS; r++)
      for (int c = 0; c < COLUMNS; c++)
        outputs[r * COLUMNS + c] = load(gradients + r * gradient.row + c * gradient.pixel);
    const int64_t apart = Spacing::apart(x);
    float* own = sums + place_of_sums(first, first, number);
    for (int32_t k = first; k < last; k += FOUR, own += LANES) {
      // where fewer than FOUR are left, the last one's products take the others' places, where nobody looks
      Vector products[FOUR];
#pragma GCC unroll 4
      for (int i = 0; i < FOUR; i++) {
        const float* place = from + list.offsets[k + i < last ? k + i : last - 1];
        constexpr int CHAINS = ROWS * COLUMNS < 2 ? 1 : 2;
        Vector chains[CHAINS] = {};
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) {
          const float* line = settled(place + r * x.row);
#pragma GCC unroll 16
          for (int c = 0; c < COLUMNS; c++)
            chains[(r * COLUMNS + c) % CHAINS] += outputs[r * COLUMNS + c] * load(line + c * apart);
        }
        products[i] = chains[0];
        for (int chain = 1; chain < CHAINS; chain++) products[i] += chains[chain];
      }
      store(own, load(own) + folded_by_quarters(products));
    }
  }
};

// Where most weights exist: the gradients of BUNDLE places by BUNDLE output channels stay in registers while the pixels
// of a band pass by.
template <class Spacing>
struct BundledGradient {
  Floats x, gradient;
  List list;
  Part band;
  int64_t width, channels;
  float* gradients;  // (places, BUNDLE)

  void add(int64_t first_channel, int64_t last_channel) {
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
    const int64_t apart = Spacing::apart(x);
    for (int64_t row = band.first_row; row < band.last_row; row++) {
      const float *start = at(x, band.block, row, 0), *from[PLACES], *given[BUNDLE];
      // a bundle that is not full takes its last channel several times
      for (int channel = 0; channel < BUNDLE; channel++)
        given[channel] = settled(at(gradient, band.block, row, 0) +
                                 (first + (channel < full ? channel : full - 1)) * gradient.channel);
      for (int place = 0; place < PLACES; place++) from[place] = settled(start + list.offsets[k + place]);
      for (int64_t column = 0; column < width; column++)
#pragma GCC unroll 4
        for (int place = 0; place < PLACES; place++) {
          const Vector pixel = load(from[place] + column * apart);
#pragma GCC unroll 4
          for (int channel = 0; channel < BUNDLE; channel++)
            sums[place][channel] += pixel * load(given[channel] + column * LANES);
        }
    }
    for (int place = 0; place < PLACES; place++) {
      float by_quarters[LANES];
      store_anywhere(by_quarters, folded_by_quarters(sums[place]));
      const Quarter by_channel = sum_of_quarters(by_quarters);
      for (int channel = 0; channel < full; channel++)
        gradients[(static_cast<int64_t>(k) + place) * BUNDLE + channel] += by_channel[channel];
    }
  }
};

}  // namespace SPARSECORE_VARIANT
