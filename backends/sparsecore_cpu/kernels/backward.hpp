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
    const Pixels given = prepared(gradient, extent, part, gradient_scratch);
    partial.compute(prepared(x, extent, part, x_scratch), given, number, 0, extent.channels);
    Extent behind = extent;
    behind.channels = inputs;
    if (mask)
      convolve_part(given, out, add, transposed, behind, part, 0, inputs,
                    Masked{*mask, sums + number * inputs * 2, LaneSums(0, inputs)});
    else
      convolve_part(given, out, add, transposed, behind, part, 0, inputs, Plain{});
  });
  partial.add_up(gradients);
}

}  // namespace SPARSECORE_VARIANT
