// The passes that apply a function to each entry, and its derivative to a gradient.
#pragma once

#include "pointwise/functions.hpp"
#include "pointwise/table.hpp"
#include "simd/elementwise.hpp"

namespace SPARSECORE_VARIANT {

using sparsecore::PointwiseBackwardParams;
using sparsecore::PointwiseKernels;
using sparsecore::PointwiseParams;

template <class Function>
void apply(const PointwiseParams& params) {
  const ActivationView &x = params.x, &out = params.out;
  for_each_line(params.extent, params.threads, [&](int64_t, int64_t block, int64_t row, int64_t channel) {
    const Stored* from = line(x, block, row, channel);
    const Stored* add = same_position(params.add, line(out, block, row, channel), out);
    const float scale = params.scale[channel], shift = params.shift[channel];
    fill_line(out, params.extent, block, row, channel, [&](int64_t column) {
      const Vector y = Function::value(scale * load(from + column * x.pixel_stride) + shift, params.parameter);
      return add ? y + load(add + column * out.pixel_stride) : y;
    });
  });
}

template <class Function>
void apply_backward(const PointwiseBackwardParams& params) {
  const PointwiseParams& forward = params.forward;
  const Extent& extent = forward.extent;
  const ActivationView &x = forward.x, &gradient = params.gradient, &out = forward.out;
  if (params.sums)
    for (int64_t i = 0; i < part_count(extent) * extent.channels * 2; i++) params.sums[i] = 0;
  for_each_line(extent, forward.threads, [&](int64_t part, int64_t block, int64_t row, int64_t channel) {
    const Stored* from = line(x, block, row, channel);
    const Stored* gradients = line(gradient, block, row, channel);
    const Stored* add = same_position(forward.add, line(out, block, row, channel), out);
    const float scale = forward.scale[channel], shift = forward.shift[channel], mean = params.mean[channel];
    Vector first = zeros(), second = zeros();
    fill_line(out, extent, block, row, channel, [&](int64_t column) {
      const Vector input = load(from + column * x.pixel_stride);
      Vector passed = load(gradients + column * gradient.pixel_stride) *
                      Function::derivative(scale * input + shift, forward.parameter);
      if (add) passed += load(add + column * out.pixel_stride);
      const int lanes = lanes_in_use(extent, block, column);
      const Vector counted = lanes == LANES ? passed : first_lanes(passed, lanes);
      first += counted;
      second += counted * (input - mean);
      return passed;
    });
    if (!params.sums) return;
    double* own = params.sums + (part * extent.channels + channel) * 2;
    own[0] += sum(first);
    own[1] += sum(second);
  });
}

template <class Function>
constexpr PointwiseKernels pointwise_kernels() {
  return {apply<Function>, apply_backward<Function>};
}

}  // namespace SPARSECORE_VARIANT
