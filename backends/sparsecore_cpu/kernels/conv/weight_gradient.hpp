// The gradients of the nonzero weights: for each, the sum over all output pixels of the outputs' gradient times the
// input.
#pragma once

#include "conv/own_pixel.hpp"

namespace SPARSECORE_VARIANT {

using sparsecore::WeightGradientParams;

// The sums of GROUP weights of one output channel are added up over all tiles of a part in one vector, by quarters, so
// that the sums stay in the cache nearest to the core.
constexpr int GROUP = 4;

// Where the sums of the weights from the k-th on are stored, of a channel's weights that begin with `first`. Channels,
// numbered over all input blocks, never share a vector.
inline int64_t offset_of_sums(int32_t first, int32_t k, int64_t channel) {
  return (first / GROUP + channel + (k - first) / GROUP) * LANES;
}

// The inner loop: adds the products of the weights [first, last) of one channel to their sums, a group at a time.
// `outputs` are the gradients of a tile of this channel, and pixels_of(k) is the address of what weight k multiplies.
template <int ROWS, int COLUMNS, class PixelsOf>
inline __attribute__((always_inline)) void add_gradients(const Vector (&outputs)[ROWS * COLUMNS], PixelsOf pixels_of,
                                                         int64_t row_stride, int64_t pixel_stride, int32_t first,
                                                         int32_t last, float* sums) {
  for (int32_t k = first; k < last; k += GROUP, sums += LANES) {
    // an incomplete group repeats its last weight; the repeated sums are never read
    Vector products[GROUP];
#pragma GCC unroll 4
    for (int i = 0; i < GROUP; i++) {
      const float* pixels = pixels_of(k + i < last ? k + i : last - 1);
      constexpr int CHAINS = ROWS * COLUMNS < 2 ? 1 : 2;  // of additions that do not wait for each other
      Vector chains[CHAINS] = {};
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; r++) {
        const float* line = pin_register(pixels + r * row_stride);
#pragma GCC unroll 16
        for (int c = 0; c < COLUMNS; c++)
          chains[(r * COLUMNS + c) % CHAINS] += outputs[r * COLUMNS + c] * load(line + c * pixel_stride);
      }
      products[i] = chains[0];
      for (int chain = 1; chain < CHAINS; chain++) products[i] += chains[chain];
    }
    store(sums, load(sums) + sum_by_quarters(products));
  }
}

// Adds up the gradients of single weights, tile by tile.
template <class PixelStride>
struct WeightGradientTiles {
  FloatView x, gradient;
  WeightList weights;
  int64_t block, channels, first_channel, last_channel;
  float* sums;
  Prefetcher& prefetcher;

  template <int ROWS, int COLUMNS>
  void tile(int64_t row, int64_t column) {
    const float* from = at(x, block, row, column);
    const float* gradients = at(gradient, block, row, column);
    for (int64_t input = 0; input < weights.input_blocks; input++) {
      const int32_t* pointers = weights.pointers + input * channels;
      for (int64_t channel = first_channel; channel < last_channel; channel++, prefetcher.step())
        if (pointers[channel] < pointers[channel + 1])
          accumulate<ROWS, COLUMNS>(from, gradients + channel * gradient.channel_stride, pointers[channel],
                                    pointers[channel + 1], input * channels + channel);
    }
  }

 private:
  // The gradients of the weights [first, last) of one channel.
  template <int ROWS, int COLUMNS>
  inline __attribute__((always_inline)) void accumulate(const float* from, const float* gradients, int32_t first,
                                                        int32_t last, int64_t channel) {
    Vector outputs[ROWS * COLUMNS];
    for (int r = 0; r < ROWS; r++)
      for (int c = 0; c < COLUMNS; c++)
        outputs[r * COLUMNS + c] = load(gradients + r * gradient.row_stride + c * gradient.pixel_stride);
    const auto pixels_of = [&](int32_t k) __attribute__((always_inline)) { return from + weights.offsets[k]; };
    add_gradients<ROWS, COLUMNS>(outputs, pixels_of, x.row_stride, PixelStride::of(x), first, last,
                                 sums + offset_of_sums(first, first, channel));
  }
};

// Adds up the gradients of bundled weights: those of BUNDLE offsets by BUNDLE output channels stay in registers over
// all pixels of a band.
template <class PixelStride>
struct BundledWeightGradient {
  FloatView x, gradient;
  WeightList weights;
  RowRange band;
  int64_t width, channels;
  float* gradients;  // (offsets, BUNDLE)

  void add(int64_t first_channel, int64_t last_channel) {
    const int64_t bundles = (channels + BUNDLE - 1) / BUNDLE;
    for (int64_t input = 0; input < weights.input_blocks; input++)
      for (int64_t first = first_channel; first < last_channel; first += BUNDLE) {
        const int32_t* pointers = weights.pointers + input * bundles + first / BUNDLE;
        const int full = first + BUNDLE <= last_channel ? BUNDLE : static_cast<int>(last_channel - first);
        int32_t k = pointers[0];
        for (; k + BUNDLE <= pointers[1]; k += BUNDLE) accumulate<BUNDLE>(k, first, full);
        for (; k < pointers[1]; k++) accumulate<1>(k, first, full);
      }
  }

 private:
  // The gradients of the offsets [k, k + OFFSETS) by the `full` channels of a bundle that begins with channel `first`.
  template <int OFFSETS>
  void accumulate(int32_t k, int64_t first, int full) {
    Vector sums[OFFSETS][BUNDLE];
    for (auto& of_offset : sums)
      for (auto& sum : of_offset) sum = zeros();
    const int64_t pixel_stride = PixelStride::of(x);
    for (int64_t row = band.first_row; row < band.last_row; row++) {
      const float *start = at(x, band.block, row, 0), *from[OFFSETS], *given[BUNDLE];
      // an incomplete bundle repeats its last channel
      for (int channel = 0; channel < BUNDLE; channel++)
        given[channel] = pin_register(at(gradient, band.block, row, 0) +
                                      (first + (channel < full ? channel : full - 1)) * gradient.channel_stride);
      for (int i = 0; i < OFFSETS; i++) from[i] = pin_register(start + weights.offsets[k + i]);
      for (int64_t column = 0; column < width; column++)
#pragma GCC unroll 4
        for (int i = 0; i < OFFSETS; i++) {
          const Vector pixel = load(from[i] + column * pixel_stride);
#pragma GCC unroll 4
          for (int channel = 0; channel < BUNDLE; channel++)
            sums[i][channel] += pixel * load(given[channel] + column * LANES);
        }
    }
    for (int i = 0; i < OFFSETS; i++) {
      float by_quarters[LANES];
      store_unaligned(by_quarters, sum_by_quarters(sums[i]));
      const Quarter by_channel = sum_of_quarters(by_quarters);
      for (int channel = 0; channel < full; channel++)
        gradients[(static_cast<int64_t>(k) + i) * BUNDLE + channel] += by_channel[channel];
    }
  }
};

// The rows of a band. With bundles it is higher, because the sums over the lanes at its end cost less the more pixels
// it has.
inline int64_t band_rows(int64_t width, const WeightList& weights) {
  constexpr int64_t PIXELS = 64;
  return weights.bundled ? (PIXELS + width - 1) / width : band_rows(width);
}

// The gradients of each part of the work, which are added up in one order for every number of threads.
class PartialGradients {
 public:
  PartialGradients(const WeightList& weights, const Extent& extent)
      : weights_(weights),
        extent_(extent),
        channels_(weights.bundled ? BUNDLE : 1),
        groups_((extent.channels + channels_ - 1) / channels_),
        count_(weights.pointers[weights.input_blocks * groups_] * static_cast<int64_t>(channels_)),
        partial_(memory(part_count(extent) * count_)) {}

  // The gradients of the output channels [first, last) from one part, which are added band by band.
  class OfPart {
   public:
    OfPart(const PartialGradients& all, int64_t part, int64_t first, int64_t last)
        : all_(all), own_(all.partial_ + part * all.count_), first_(first), last_(last) {
      if (all.weights_.bundled) {
        for (int64_t input = 0; input < all.weights_.input_blocks; input++) {
          const int32_t* bundles = all.weights_.pointers + input * all.groups_;
          const int32_t start = bundles[first / BUNDLE], end = bundles[(last + BUNDLE - 1) / BUNDLE];
          for (int64_t k = int64_t{start} * BUNDLE; k < int64_t{end} * BUNDLE; k++) own_[k] = 0;
        }
        return;
      }
      static thread_local Scratch scratch;
      sums_ = scratch.request((all.count_ / GROUP + all.weights_.input_blocks * all.groups_ + 1) * LANES);
      all.for_each_group(first, last, sums_, [&](int32_t, int, float* sums) { store(sums, zeros()); });
    }

    // How many prefetch steps `add` makes.
    int64_t prefetch_steps(const RowRange& band) const {
      return all_.weights_.bundled ? 0 : prefetch_steps_of_tiles(all_.weights_, all_.extent_, band, last_ - first_);
    }

    void add(const FloatView& x, const FloatView& gradient, const RowRange& band, Prefetcher& prefetcher) {
      const WeightList& weights = all_.weights_;
      const Extent& extent = all_.extent_;
      const int64_t width = extent.width, channels = extent.channels;
      with_pixel_stride(x, [&](auto pixel_stride) {
        using Bundled = BundledWeightGradient<decltype(pixel_stride)>;
        using Tiles = WeightGradientTiles<decltype(pixel_stride)>;
        if (weights.bundled)
          Bundled{x, gradient, weights, band, width, channels, own_}.add(first_, last_);
        else
          for_each_tile(band.first_row, band.last_row, width,
                        Tiles{x, gradient, weights, band.block, channels, first_, last_, sums_, prefetcher});
      });
    }

    // How many prefetch steps `add_tile` makes.
    int64_t prefetch_steps_of_tile() const { return all_.weights_.input_blocks * (last_ - first_); }

    // Adds a tile, where every weight reads the output's own pixel.
    template <int ROWS, int COLUMNS>
    __attribute__((noinline)) void add_tile(const TileChannels& x, const TileChannels& gradient,
                                            TilePrefetcher& prefetcher) {
      const WeightList& weights = all_.weights_;
      const auto pixels_of = [&](int32_t k) __attribute__((always_inline)) { return x.at(weights.channels[k]); };
      for (int64_t input = 0; input < weights.input_blocks; input++)
        for (int64_t channel = first_; channel < last_; channel++) {
          prefetcher.step();
          const int64_t number = input * all_.extent_.channels + channel;
          const int32_t first = weights.pointers[number], last = weights.pointers[number + 1];
          if (first == last) continue;
          const float* gradients = gradient.at(channel);
          Vector outputs[ROWS * COLUMNS];
          for (int r = 0; r < ROWS; r++)
            for (int c = 0; c < COLUMNS; c++)
              outputs[r * COLUMNS + c] = load(gradients + r * gradient.row_stride + c * LANES);
          add_gradients<ROWS, COLUMNS>(outputs, pixels_of, x.row_stride, LANES, first, last,
                                       sums_ + offset_of_sums(first, first, number));
        }
    }

    // Adds up the sums over the lanes when all bands are done.
    void finish() const {
      if (all_.weights_.bundled) return;
      all_.for_each_group(first_, last_, sums_, [&](int32_t k, int count, const float* sums) {
        const Quarter gradients = sum_of_quarters(sums);
        if (count == GROUP)
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

  // The sums over all parts.
  void add_up(float* gradients) const {
    for (int64_t k = 0; k < count_; k++) gradients[k] = 0;
    for (int64_t part = 0; part < part_count(extent_); part++)
      for (int64_t k = 0; k < count_; k++) gradients[k] += partial_[part * count_ + k];
  }

 private:
  // Calls visit(first weight, how many weights up to GROUP, address of their sums) for the output channels [first,
  // last).
  template <class Visit>
  void for_each_group(int64_t first, int64_t last, float* sums, Visit visit) const {
    for (int64_t input = 0; input < weights_.input_blocks; input++)
      for (int64_t channel = first; channel < last; channel++) {
        const int64_t number = input * extent_.channels + channel;
        const int32_t start = weights_.pointers[number], end = weights_.pointers[number + 1];
        for (int32_t k = start; k < end; k += GROUP)
          visit(k, end - k < GROUP ? end - k : GROUP, sums + offset_of_sums(start, k, number));
      }
  }

  // Memory that all calls of one thread share: fresh memory from the system takes longer than the arithmetic in it.
  static float* memory(int64_t count) {
    static thread_local Scratch scratch;
    return scratch.request(count);
  }

  WeightList weights_;
  Extent extent_;
  int channels_;
  int64_t groups_, count_;  // groups of channels in each input block; weights, those of incomplete bundles included
  float* partial_;
};

// Visits the tiles of a part where every weight reads the output's own pixel.
struct OwnPixelGradientTiles {
  const TileInput &x, &gradient;
  float *x_scratch, *gradient_scratch;
  PartialGradients::OfPart& own;
  int64_t block, width;

  template <int ROWS, int COLUMNS>
  void tile(int64_t row, int64_t column) {
    const Tile next = Tile{block, row, column, ROWS, COLUMNS}.next(width);
    TilePrefetcher prefetcher;
    x.prefetch(next, prefetcher), gradient.prefetch(next, prefetcher);
    prefetcher.distribute(own.prefetch_steps_of_tile());
    const TileChannels inputs = x.read<ROWS, COLUMNS>(row, column, x_scratch);
    const TileChannels gradients = gradient.read<ROWS, COLUMNS>(row, column, gradient_scratch);
    own.add_tile<ROWS, COLUMNS>(inputs, gradients, prefetcher);
  }
};

inline void weight_gradient_of_own_pixels(const WeightGradientParams& params, PartialGradients::OfPart& own,
                                          const RowRange& part) {
  static thread_local Scratch x_scratch, gradient_scratch;
  const int64_t inputs = params.x.channels, outputs = params.extent.channels;
  const TileInput x(params.x, params.extent, part.block, uses_of_inputs(params.weights, inputs, outputs));
  const TileInput gradient(params.gradient, params.extent, part.block, 1);
  for_each_own_pixel_tile(
      part, params.extent.width,
      OwnPixelGradientTiles{x, gradient, x_scratch.request(x.scratch_size()),
                            gradient_scratch.request(gradient.scratch_size()), own, part.block, params.extent.width});
}

inline void weight_gradient(const WeightGradientParams& params) {
  const Extent& extent = params.extent;
  PartialGradients partial(params.weights, extent);
  const int64_t ranges = channel_range_count(extent, params.threads);
  parallel_for(part_count(extent) * ranges, params.threads, [&](int64_t task) {
    static thread_local Scratch x_scratch, gradient_scratch;
    const int64_t number = task / ranges, range = task % ranges;
    const RowRange part = rows_of_part(extent, number);
    PartialGradients::OfPart own(partial, number, first_channel_of(extent, range, ranges),
                                 first_channel_of(extent, range + 1, ranges));
    if (params.weights.channels) return weight_gradient_of_own_pixels(params, own, part), own.finish();
    InputRows x(params.x, extent, part, x_scratch), gradient(params.gradient, extent, part, gradient_scratch);
    const Bands bands(extent, number, band_rows(extent.width, params.weights));
    bands.for_each([&](const RowRange& band, const RowRange& next) {
      Prefetcher prefetcher;
      x.prefetch(next, prefetcher), gradient.prefetch(next, prefetcher);
      prefetcher.distribute(own.prefetch_steps(band));
      own.add(x.computed_until(band.last_row), gradient.computed_until(band.last_row), band, prefetcher);
    });
    own.finish();
  });
  partial.add_up(params.gradients);
}

}  // namespace SPARSECORE_VARIANT
