// Both gradients of a convolution in one pass: the outputs' gradient is read, or computed, once.
#pragma once

#include "convolution.hpp"
#include "weight_gradient.hpp"

namespace SPARSECORE_VARIANT {

using sparsecore::Behind;
using sparsecore::Behinds;

// One part: band after band, both gradients. `finish` is of all the tiles of the inputs' gradient.
template <class Finish>
void backward_part(Prepared& x, Prepared& gradient, PartialGradients::OfPart& partial, const Written& to,
                   Behinds behind, const Extent& extent, int64_t inputs, const Bands& bands,
                   Finish finish) {
  Extent made = extent;
  made.channels = inputs;
  bands.each([&](const Part& band, const Part& next) {
    const Floats &read = x.above(band.last_row), &given = gradient.above(band.last_row);
    Ahead ahead;
    x.soon(next, ahead), gradient.soon(next, ahead), to.soon(next, ahead);
    int64_t all = partial.looks(band);
    for (const Behind& one : behind) all += looks(one.list, made, band, inputs);
    ahead.over(all);
    partial.add(read, given, band, ahead);
    for (const Behind& one : behind) {
      Finish there = finish.moved(one.shift);
      convolve_band(given, to.moved(one.shift), one.list, made, band, 0, inputs, there, ahead);
    }
  });
  finish.end();
}

inline void backward(const Input& x, const Input& gradient, List list, float* gradients, Extent extent, Pixels out,
                     const void* add, Behinds behind, int64_t inputs, const Mask* mask, double* sums,
                     int threads) {
  PartialGradients partial(list, extent);
  in_parallel(parts(extent), threads, [&](int64_t number) {
    static thread_local Scratch x_scratch, gradient_scratch;
    const Part part = part_of(extent, number);
    Prepared read(x, extent, part, x_scratch), given(gradient, extent, part, gradient_scratch);
    PartialGradients::OfPart own(partial, number, 0, extent.channels);
    const Bands bands(extent, number, band_rows(extent.width, list), threads);
    const auto with = [&](auto finish) {
      backward_part(read, given, own, Written{out, add}, behind, extent, inputs, bands, finish);
    };
    if (mask)
      with(Masked{*mask, sums + number * inputs * 2, LaneSums(0, inputs)});
    else
      with(Plain{});
    own.end();
  });
  partial.add_up(gradients);
}

}  // namespace SPARSECORE_VARIANT
