// Convolution with a list of nonzero weights: each weight is one multiply-add of a vector for each output pixel.
#pragma once

#include "conv/own_pixel.hpp"

namespace SPARSECORE_VARIANT {

// Computes tiles of CHANNELS output channels that read the same pixels: one, or a bundle.
template <int CHANNELS, class PixelStride, class Epilogue>
struct ConvolutionTiles {
  FloatView x;
  ActivationView out;
  const Stored* add;  // laid out as `out`, or null
  WeightList weights;
  int64_t block, channels, first_channel, last_channel;  // of those computed; the first one starts a bundle
  Epilogue& epilogue;
  Prefetcher& prefetcher;

  template <int ROWS, int COLUMNS>
  void tile(int64_t row, int64_t column) {
    const float* from = at(x, block, row, column);
    Stored* to = at(out, block, row, column);
    const Stored* start = add ? add + (to - static_cast<Stored*>(out.data)) : nullptr;
    const int64_t groups = (channels + CHANNELS - 1) / CHANNELS;
    PartialOutputs<ROWS * COLUMNS> partial(*this);
    for (int64_t input = 0; input < weights.input_blocks; input++) {
      const int32_t* pointers = weights.pointers + input * groups;
      const bool last_input = input + 1 == weights.input_blocks;
      for (int64_t first = first_channel; first < last_channel; first += CHANNELS) {
        const int full = first + CHANNELS <= last_channel ? CHANNELS : static_cast<int>(last_channel - first);
        prefetcher.step();
        Vector outputs[CHANNELS][ROWS * COLUMNS];
        for (int channel = 0; channel < CHANNELS; channel++)
          if (channel < full && input)
            partial.template read<ROWS, COLUMNS>(to, first + channel, outputs[channel]);
          else if (channel < full && start)
            load_tile<ROWS, COLUMNS>(out, start + (first + channel) * out.channel_stride, outputs[channel]);
          else
            for (auto& output : outputs[channel]) output = zeros();
        const int32_t group = static_cast<int32_t>(first / CHANNELS);
        accumulate<ROWS, COLUMNS>(from, pointers[group], pointers[group + 1], outputs);
        for (int channel = 0; channel < full; channel++) {
          if (last_input) {
            epilogue.template apply<ROWS, COLUMNS>(outputs[channel], block, row, column, first + channel);
            store_tile<ROWS, COLUMNS>(out, to + (first + channel) * out.channel_stride, outputs[channel]);
          } else {
            partial.template write<ROWS, COLUMNS>(to, first + channel, outputs[channel]);
          }
        }
      }
    }
  }

 private:
  // Outputs to which the weights of further input blocks are still to be added. They are kept as floats: in the output
  // itself where it stores floats, else in scratch memory.
  template <int PIXELS>
  class PartialOutputs {
   public:
    explicit PartialOutputs(ConvolutionTiles& tiles) : tiles_(tiles) {
      static thread_local Scratch scratch;
      if (!STORED_AS_FLOAT && tiles.weights.input_blocks > 1)
        floats_ = scratch.request((tiles.last_channel - tiles.first_channel) * PIXELS * LANES);
    }

    template <int ROWS, int COLUMNS>
    inline __attribute__((always_inline)) void read(const Stored* to, int64_t channel,
                                                    Vector (&outputs)[PIXELS]) const {
      if constexpr (STORED_AS_FLOAT)
        return load_tile<ROWS, COLUMNS>(tiles_.out, to + channel * tiles_.out.channel_stride, outputs);
      for (int i = 0; i < PIXELS; i++) outputs[i] = load(floats_of(channel) + i * LANES);
    }

    template <int ROWS, int COLUMNS>
    inline __attribute__((always_inline)) void write(Stored* to, int64_t channel,
                                                     const Vector (&outputs)[PIXELS]) const {
      if constexpr (STORED_AS_FLOAT)
        return store_tile<ROWS, COLUMNS>(tiles_.out, to + channel * tiles_.out.channel_stride, outputs);
      for (int i = 0; i < PIXELS; i++) store(floats_of(channel) + i * LANES, outputs[i]);
    }

   private:
    float* floats_of(int64_t channel) const { return floats_ + (channel - tiles_.first_channel) * PIXELS * LANES; }

    ConvolutionTiles& tiles_;
    float* floats_ = nullptr;
  };

  // The inner loop: adds weight * pixel for the weights [first, last) to the outputs, which stay in registers.
  template <int ROWS, int COLUMNS>
  inline __attribute__((always_inline)) void accumulate(const float* from, int32_t first, int32_t last,
                                                        Vector (&outputs)[CHANNELS][ROWS * COLUMNS]) {
    const int64_t pixel_stride = PixelStride::of(x);
    for (int32_t k = first; k < last; k++) {
      const float* pixels = from + weights.offsets[k];
      const float* values = weights.values + static_cast<int64_t>(k) * CHANNELS;
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; r++) {
        const float* line = pin_register(pixels + r * x.row_stride);
#pragma GCC unroll 16
        for (int c = 0; c < COLUMNS; c++) {
          const Vector pixel = load(line + c * pixel_stride);
#pragma GCC unroll 4
          for (int channel = 0; channel < CHANNELS; channel++)
            outputs[channel][r * COLUMNS + c] += values[channel] * pixel;
        }
      }
    }
  }
};

// How many prefetch steps a convolution over a band makes.
inline int64_t prefetch_steps(const WeightList& weights, const Extent& extent, const RowRange& band, int64_t channels) {
  if (!weights.bundled) return prefetch_steps_of_tiles(weights, extent, band, channels);
  const int64_t bundles = (channels + BUNDLE - 1) / BUNDLE, rows = band.last_row - band.first_row;
  return bundles * weights.input_blocks * strip_count(extent.width, TILE / BUNDLE) * rows;
}

// Computes the channels [first, last) of one band.
template <class Epilogue>
void convolve_band(const FloatView& x, const ConvolutionOutput& output, WeightList weights, const Extent& extent,
                   const RowRange& band, int64_t first, int64_t last, Epilogue& epilogue, Prefetcher& prefetcher) {
  const Stored* add = static_cast<const Stored*>(output.add);
  with_pixel_stride(x, [&](auto pixel_stride) {
    const auto cover_with = [&](auto channels) {
      using Tiles = ConvolutionTiles<decltype(channels)::value, decltype(pixel_stride), Epilogue>;
      for_each_tile<TILE / decltype(channels)::value>(
          band.first_row, band.last_row, extent.width,
          Tiles{x, output.out, add, weights, band.block, extent.channels, first, last, epilogue, prefetcher});
    };
    weights.bundled ? cover_with(std::integral_constant<int, BUNDLE>{}) : cover_with(std::integral_constant<int, 1>{});
  });
}

// `make_epilogue(part, first channel, last channel)` makes the epilogue of the tiles of one task.
template <class MakeEpilogue>
void convolve_with(const ConvolutionParams& params, MakeEpilogue make_epilogue) {
  if (params.weights.channels) return convolve_own_pixels(params, make_epilogue);
  const Extent& extent = params.extent;
  const int64_t ranges = channel_range_count(extent, params.threads);
  parallel_for(part_count(extent) * ranges, params.threads, [&](int64_t task) {
    const RowRange part = rows_of_part(extent, task / ranges);
    const int64_t range = task % ranges;
    const int64_t first = first_channel_of(extent, range, ranges), last = first_channel_of(extent, range + 1, ranges);
    static thread_local Scratch scratch;
    InputRows input(params.x, extent, part, scratch);
    const ConvolutionOutput output{params.out, params.add};
    auto epilogue = make_epilogue(task / ranges, first, last);
    const Bands bands(extent, task / ranges, band_rows(extent.width));
    bands.for_each([&](const RowRange& band, const RowRange& next) {
      const FloatView& x = input.computed_until(band.last_row);
      Prefetcher prefetcher;
      input.prefetch(next, prefetcher), output.prefetch(next, prefetcher);
      prefetcher.distribute(prefetch_steps(params.weights, extent, band, last - first));
      convolve_band(x, output, params.weights, extent, band, first, last, epilogue, prefetcher);
    });
    epilogue.write_sums();
  });
}

inline void convolve(const ConvolutionParams& params, double* sums) {
  if (!sums) return convolve_with(params, [](int64_t, int64_t, int64_t) { return NoEpilogue{}; });
  convolve_with(params, [&](int64_t part, int64_t first, int64_t last) {
    return MomentsEpilogue{sums + part * params.extent.channels * 2, LaneSums(first, last)};
  });
}

inline void convolve_masked(const ConvolutionParams& params, const ReluMask& mask, double* sums) {
  convolve_with(params, [&](int64_t part, int64_t first, int64_t last) {
    return MaskEpilogue{mask, sums + part * params.extent.channels * 2, LaneSums(first, last)};
  });
}

}  // namespace SPARSECORE_VARIANT
