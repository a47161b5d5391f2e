// The gradients of the weights that exist, and of no others.
#pragma once

#include "gradient_tiles.hpp"

namespace SPARSECORE_VARIANT {

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
