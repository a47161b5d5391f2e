// Both gradients of a convolution in one pass: the outputs' gradient is read, or computed, once.
#pragma once

#include "convolution.hpp"
#include "weight_gradient.hpp"

namespace SPARSECORE_VARIANT {

inline void backward(const Input& x, const Input& gradient, List list, float* gradients, Extent extent, Pixels out,
                     const float* add, List transposed, int64_t inputs, const Mask* mask, double* sums, int threads) {
  PartialGradients partial(list, extent);
  in_parallel(parts(extent), threads, [&](int64_t number) {
    static thread_local Scratch x_scratch, gradient_scratch;
    const Part part = part_of(extent, number);
    Prepared read(x, extent, part, x_scratch), given(gradient, extent, part, gradient_scratch);
    PartialGradients::OfPart own(partial, number, 0, extent.channels);
    Extent behind = extent;
    behind.channels = inputs;
    const Written to{out, add};
    const auto convolve_with = [&](auto finish) {
      const int64_t height = band_rows(extent.width, list);
      by_bands(part, height, [&](const Part& band) {
        const Pixels& gradients_above = given.above(band.last_row);
        Ahead ahead;
        Part next{band.block, band.last_row, std::min(band.last_row + height, part.last_row)};if(band.last_row==part.last_row){next=part_of(extent,(number+1)%parts(extent)); next.last_row=std::min(next.last_row,next.first_row+height);}
        read.soon(next, ahead);
        given.soon(next, ahead);
        to.soon(next, ahead);
        ahead.over(looks(transposed, behind, band, inputs)+(list.bundled?0:looks(list, extent, band, extent.channels)));
        own.add(read.above(band.last_row), gradients_above, band, ahead);
        convolve_band(gradients_above, to, transposed, behind, band, 0, inputs, finish, ahead);
      });
      finish.end();
    };
    if (mask)
      convolve_with(Masked{*mask, sums + number * inputs * 2, LaneSums(0, inputs)});
    else
      convolve_with(Plain{});
    own.end();
  });
  partial.add_up(gradients);
}

}  // namespace SPARSECORE_VARIANT
