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

inline void backward(const BackwardParams& params) {
  const Extent& extent = params.extent;
  PartialGradients partial(params.weights, extent);
  parallel_for(part_count(extent), params.threads, [&](int64_t number) {
    static thread_local Scratch x_scratch, gradient_scratch;
    const RowRange part = rows_of_part(extent, number);
    InputRows x(params.x, extent, part, x_scratch), gradient(params.gradient, extent, part, gradient_scratch);
    PartialGradients::OfPart own(partial, number, 0, extent.channels);
    const Bands bands(extent, number, band_rows(extent.width, params.weights));
    const auto compute_with = [&](auto epilogue) { backward_part(params, x, gradient, own, bands, epilogue); };
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
