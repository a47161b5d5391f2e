// Both gradients of a convolution in one pass, so that the outputs' gradient is read, or computed, once.
#pragma once

#include "conv/forward.hpp"
#include "conv/weight_gradient.hpp"

namespace SPARSECORE_VARIANT {

using sparsecore::BackwardParams;
using sparsecore::TransposedWeights;

// Computes one part, both gradients band by band. The epilogue is that of the input's gradient.
template <class Epilogue>
void backward_part(const BackwardParams& params, InputRows& x, InputRows& gradient, PartialGradients::OfPart& partial,
                   const Bands& bands, Epilogue epilogue) {
  const ConvolutionOutput output{params.out, params.add};
  Extent extent = params.extent;  // of the input's gradient, for each of the transposed weights
  extent.channels = params.input_channels;
  bands.for_each([&](const RowRange& band, const RowRange& next) {
    const FloatView &inputs = x.computed_until(band.last_row), &gradients = gradient.computed_until(band.last_row);
    Prefetcher prefetcher;
    x.prefetch(next, prefetcher), gradient.prefetch(next, prefetcher), output.prefetch(next, prefetcher);
    int64_t steps = partial.prefetch_steps(band);
    for (const TransposedWeights& transposed : params.transposed)
      steps += prefetch_steps(transposed.weights, extent, band, params.input_channels);
    prefetcher.distribute(steps);
    partial.add(inputs, gradients, band, prefetcher);
    for (const TransposedWeights& transposed : params.transposed) {
      Epilogue shifted = epilogue.shifted(transposed.output_offset);
      convolve_band(gradients, output.shifted(transposed.output_offset), transposed.weights, extent, band, 0,
                    params.input_channels, shifted, prefetcher);
    }
  });
  epilogue.write_sums();
}

// Visits the tiles of a part where every weight reads the output's own pixel.
template <class Epilogue>
struct OwnPixelBackwardTiles {
  const BackwardParams& params;
  const TileInput &x, &gradient;
  float *x_scratch, *gradient_scratch;
  PartialGradients::OfPart& own;
  int64_t block;
  Epilogue& epilogue;

  template <int ROWS, int COLUMNS>
  void tile(int64_t row, int64_t column) {
    const Tile tile{block, row, column, ROWS, COLUMNS}, next = tile.next(params.extent.width);
    TilePrefetcher prefetcher, none;
    x.prefetch(next, prefetcher), gradient.prefetch(next, prefetcher);
    prefetcher.distribute(own.prefetch_steps_of_tile());
    const TileChannels inputs = x.read<ROWS, COLUMNS>(row, column, x_scratch);
    const TileChannels gradients = gradient.read<ROWS, COLUMNS>(row, column, gradient_scratch);
    own.add_tile<ROWS, COLUMNS>(inputs, gradients, prefetcher);
    const ConvolutionOutput output{params.out, params.add};
    const int64_t channels = params.input_channels;
    for (const TransposedWeights& transposed : params.transposed) {
      Epilogue shifted = epilogue.shifted(transposed.output_offset);
      OwnPixelOutputs<Epilogue> outputs(output.shifted(transposed.output_offset), transposed.weights, channels, 0,
                                        channels, shifted);
      outputs.template compute<ROWS, COLUMNS>(gradients, tile, next, none);
    }
  }
};

template <class Epilogue>
void backward_of_own_pixels(const BackwardParams& params, PartialGradients::OfPart& own, const RowRange& part,
                            Epilogue epilogue) {
  static thread_local Scratch x_scratch, gradient_scratch;
  const int64_t inputs = params.input_channels, outputs = params.extent.channels;
  const int64_t uses = uses_of_inputs(params.weights, inputs, outputs);
  const TileInput x(params.x, params.extent, part.block, uses);
  const TileInput gradient(params.gradient, params.extent, part.block, uses * inputs / outputs);
  for_each_own_pixel_tile(
      part, params.extent.width,
      OwnPixelBackwardTiles<Epilogue>{params, x, gradient, x_scratch.request(x.scratch_size()),
                                      gradient_scratch.request(gradient.scratch_size()), own, part.block, epilogue});
  epilogue.write_sums();
}

inline void backward(const BackwardParams& params) {
  const Extent& extent = params.extent;
  PartialGradients partial(params.weights, extent);
  parallel_for(part_count(extent), params.threads, [&](int64_t number) {
    static thread_local Scratch x_scratch, gradient_scratch;
    const RowRange part = rows_of_part(extent, number);
    PartialGradients::OfPart own(partial, number, 0, extent.channels);
    const auto compute_with = [&](auto epilogue) {
      if (params.weights.channels) return backward_of_own_pixels(params, own, part, epilogue);
      InputRows x(params.x, extent, part, x_scratch), gradient(params.gradient, extent, part, gradient_scratch);
      const Bands bands(extent, number, band_rows(extent.width, params.weights));
      backward_part(params, x, gradient, own, bands, epilogue);
    };
    const int64_t inputs = params.input_channels;
    if (params.mask)
      compute_with(MaskEpilogue{*params.mask, params.sums + number * inputs * 2, LaneSums(0, inputs)});
    else
      compute_with(NoEpilogue{});
    own.finish();
  });
  partial.add_up(params.weight_gradients);
}

}  // namespace SPARSECORE_VARIANT
