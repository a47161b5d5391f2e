// The gradients of the weights that exist, and of no others.
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

// Where many pixels pass by, adding up their sums over a vector's lanes costs little.
inline int64_t band_rows(int64_t width, const List& list) {
  constexpr int64_t MANY = 64;
  return list.bundled ? (MANY + width - 1) / width : band_rows(width);
}

// The gradients of each part of the work, which come to the whole in one order whatever the threads.
class PartialGradients {
 public:
  PartialGradients(const List& list, const Extent& extent)
      : list_(list), extent_(extent), channels_(list.bundled ? BUNDLE : 1),
        groups_((extent.channels + channels_ - 1) / channels_),
        weights_(list.pointers[list.input_blocks * groups_] * static_cast<int64_t>(channels_)),
        partial_(room(parts(extent) * weights_)) {}

  // Those of the output channels [first, last) from one part, band by band.
  class OfPart {
   public:
    OfPart(const PartialGradients& all, int64_t number, int64_t first, int64_t last)
        : all_(all), own_(all.partial_ + number * all.weights_), first_(first),
          last_(last) {
      if (all.list_.bundled) {
        for (int64_t input = 0; input < all.list_.input_blocks; input++) {
          const int32_t* bundles = all.list_.pointers + input * all.groups_;
          const int32_t start = bundles[first / BUNDLE], end = bundles[(last + BUNDLE - 1) / BUNDLE];
          for (int64_t k = int64_t{start} * BUNDLE; k < int64_t{end} * BUNDLE; k++) own_[k] = 0;
        }
        return;
      }
      static thread_local Scratch scratch;
      sums_ = scratch.of((all.weights_ / FOUR + all.list_.input_blocks * all.groups_ + 1) * LANES);
      all.each_four(first, last, sums_, [&](int32_t, int, float* of) { store(of, zeros()); });
    }

    // How often `add` looks ahead.
    int64_t looks(const Part& band) const {
      return all_.list_.bundled ? 0 : looks_of_tiles(all_.list_, all_.extent_, band, last_ - first_);
    }

    void add(const Floats& x, const Floats& gradient, const Part& band, Ahead& ahead) {
      const List& list = all_.list_;
      const Extent& extent = all_.extent_;
      const int64_t width = extent.width, channels = extent.channels;
      with_spacing(x, [&](auto spacing) {
        using Bundled = BundledGradient<decltype(spacing)>;
        using Single = WeightGradient<decltype(spacing)>;
        if (list.bundled)
          Bundled{x, gradient, list, band, width, channels, own_}.add(first_, last_);
        else
          cover(band.first_row, band.last_row, width,
                Single{x, gradient, list, band.block, channels, first_, last_, sums_, ahead});
      });
    }

    void end() const {
      if (all_.list_.bundled) return;
      all_.each_four(first_, last_, sums_, [&](int32_t k, int count, const float* of) {
        const Quarter gradients = sum_of_quarters(of);
        if (count == FOUR)
          *reinterpret_cast<Quarter*>(own_ + k) = gradients;
        else
          for (int i = 0; i < count; i++) own_[k + i] = gradients[i];
      });
    }

   private:
    const PartialGradients& all_;
    float *own_, *sums_ = nullptr;
    int64_t first_, last_;
  };

  void add_up(float* gradients) const {
    for (int64_t k = 0; k < weights_; k++) gradients[k] = 0;
    for (int64_t part = 0; part < parts(extent_); part++)
      for (int64_t k = 0; k < weights_; k++) gradients[k] += partial_[part * weights_ + k];
  }

 private:
  // Call visit(first of up to FOUR weights, how many, where their sums lie) for the output channels [first, last).
  template <class Visit>
  void each_four(int64_t first, int64_t last, float* sums, Visit visit) const {
    for (int64_t input = 0; input < list_.input_blocks; input++)
      for (int64_t channel = first; channel < last; channel++) {
        const int64_t group = input * extent_.channels + channel;
        const int32_t start = list_.pointers[group], end = list_.pointers[group + 1];
        for (int32_t k = start; k < end; k += FOUR)
          visit(k, end - k < FOUR ? end - k : FOUR, sums + place_of_sums(start, k, group));
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
    Prepared read(x, extent, part, x_scratch), given(gradient, extent, part, gradient_scratch);
    PartialGradients::OfPart own(partial, number, channel_cut(extent, cut, cuts), channel_cut(extent, cut + 1, cuts));
    Bands(extent, number, band_rows(extent.width, list), threads).each([&](const Part& band, const Part& next) {
      Ahead ahead;
      read.soon(next, ahead), given.soon(next, ahead);
      ahead.over(own.looks(band));
      own.add(read.above(band.last_row), given.above(band.last_row), band, ahead);
    });
    own.end();
  });
  partial.add_up(gradients);
}

}  // namespace SPARSECORE_VARIANT
