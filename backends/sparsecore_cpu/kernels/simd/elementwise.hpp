// The kernels that go over activations pixel by pixel, where no convolution can do it on the way.
#pragma once

#include "simd/tiles.hpp"

namespace SPARSECORE_VARIANT {

using sparsecore::AffineParams;
using sparsecore::CombineParams;

// Calls visit(part, block, row, channel) for each row of each channel, on several threads.
template <class Visit>
void for_each_line(const Extent& extent, int threads, Visit visit) {
  const int64_t ranges = channel_range_count(extent, threads);
  parallel_for(part_count(extent) * ranges, threads, [&](int64_t task) {
    const RowRange rows = rows_of_part(extent, task / ranges);
    const int64_t range = task % ranges;
    const int64_t first = first_channel_of(extent, range, ranges), last = first_channel_of(extent, range + 1, ranges);
    for (int64_t row = rows.first_row; row < rows.last_row; row++)
      for (int64_t channel = first; channel < last; channel++) visit(task / ranges, rows.block, row, channel);
  });
}

// The address of the first pixel of a row of a channel.
inline Stored* line(const ActivationView& view, int64_t block, int64_t row, int64_t channel) {
  return at(view, block, row, 0) + channel * view.channel_stride;
}

// The address in another buffer of the same layout, or null where there is none.
inline const Stored* same_position(const void* other, const Stored* address, const ActivationView& view) {
  return other ? static_cast<const Stored*>(other) + (address - static_cast<const Stored*>(view.data)) : nullptr;
}

// Stores function(column) at each pixel of a line, and zeros in the lanes that hold no image.
template <class Function>
void fill_line(const ActivationView& out, const Extent& extent, int64_t block, int64_t row, int64_t channel,
               Function function) {
  Stored* to = line(out, block, row, channel);
  for (int64_t column = 0; column < extent.width; column++) {
    const Vector vector = function(column);
    const int lanes = lanes_in_use(extent, block, column);
    store(to + column * out.pixel_stride, lanes == LANES ? vector : first_lanes(vector, lanes));
  }
}

inline void affine(const AffineParams& params) {
  const ActivationView &x = params.x, &out = params.out;
  for_each_line(params.extent, params.threads, [&](int64_t, int64_t block, int64_t row, int64_t channel) {
    const Stored* from = line(x, block, row, channel);
    const float scale = params.scale[channel], shift = params.shift[channel];
    fill_line(out, params.extent, block, row, channel,
              [&](int64_t column) { return scale * load(from + column * x.pixel_stride) + shift; });
  });
}

inline void affine_relu(const AffineParams& params) {
  const ActivationView &x = params.x, &out = params.out;
  for_each_line(params.extent, params.threads, [&](int64_t, int64_t block, int64_t row, int64_t channel) {
    const Stored* from = line(x, block, row, channel);
    const float scale = params.scale[channel], shift = params.shift[channel];
    fill_line(out, params.extent, block, row, channel, [&](int64_t column) {
      const Vector y = scale * load(from + column * x.pixel_stride) + shift;
      return rectified(y);
    });
  });
}

inline void combine(const CombineParams& params) {
  const ActivationView &gradient = params.gradient, &x = params.x, &out = params.out;
  for_each_line(params.extent, params.threads, [&](int64_t, int64_t block, int64_t row, int64_t channel) {
    const Stored* gradients = line(gradient, block, row, channel);
    const Stored* from = line(x, block, row, channel);
    const Stored* add = same_position(params.add, line(out, block, row, channel), out);
    const float gradient_scale = params.gradient_scale[channel], x_scale = params.x_scale[channel];
    const float constant = params.constant[channel];
    fill_line(out, params.extent, block, row, channel, [&](int64_t column) {
      const Vector combined = gradient_scale * load(gradients + column * gradient.pixel_stride) +
                              (x_scale * load(from + column * x.pixel_stride) + constant);
      return add ? combined + load(add + column * out.pixel_stride) : combined;
    });
  });
}

struct VectorPair {
  Vector first, second;
};

// Two sums for each channel, of the vectors that function(block, row, channel, column) returns; lanes that hold no
// image are left out.
template <class Function>
void sum_by_channel(const Extent& extent, double* sums, int threads, Function function) {
  for (int64_t i = 0; i < part_count(extent) * extent.channels * 2; i++) sums[i] = 0;
  for_each_line(extent, threads, [&](int64_t part, int64_t block, int64_t row, int64_t channel) {
    Vector first = zeros(), second = zeros();
    for (int64_t column = 0; column < extent.width; column++) {
      const auto [one, other] = function(block, row, channel, column);
      const int lanes = lanes_in_use(extent, block, column);
      first += lanes == LANES ? one : first_lanes(one, lanes);
      second += lanes == LANES ? other : first_lanes(other, lanes);
    }
    double* own = sums + (part * extent.channels + channel) * 2;
    own[0] += sum(first);
    own[1] += sum(second);
  });
}

inline void relu_backward(ActivationView gradient, ActivationView out, const ReluMask& mask, Extent extent,
                          double* sums, int threads) {
  sum_by_channel(extent, sums, threads, [&](int64_t block, int64_t row, int64_t channel, int64_t column) {
    const Vector x = load(line(mask.input, block, row, channel) + column * mask.input.pixel_stride);
    const Vector given = load(line(gradient, block, row, channel) + column * gradient.pixel_stride);
    const Vector kept = mask.scale[channel] * x + mask.shift[channel] > zeros() ? given : zeros();
    store(line(out, block, row, channel) + column * out.pixel_stride, kept);
    return VectorPair{kept, kept * (x - mask.mean[channel])};
  });
}

inline void moments(ActivationView x, const float* about, Extent extent, double* sums, int threads) {
  sum_by_channel(extent, sums, threads, [&](int64_t block, int64_t row, int64_t channel, int64_t column) {
    const Vector difference = load(line(x, block, row, channel) + column * x.pixel_stride) - about[channel];
    return VectorPair{difference, difference * difference};
  });
}

inline void gradient_sums(ActivationView gradient, ActivationView x, const float* mean, Extent extent, double* sums,
                          int threads) {
  sum_by_channel(extent, sums, threads, [&](int64_t block, int64_t row, int64_t channel, int64_t column) {
    const Vector given = load(line(gradient, block, row, channel) + column * gradient.pixel_stride);
    return VectorPair{given, given * (load(line(x, block, row, channel) + column * x.pixel_stride) - mean[channel])};
  });
}

// The vector of features of channel c and block b is number c * blocks + b.
inline void pool(ActivationView x, float* features, Extent extent, int threads) {
  const float share = 1.0f / static_cast<float>(extent.height * extent.width);
  parallel_for(extent.blocks, threads, [&](int64_t block) {
    for (int64_t channel = 0; channel < extent.channels; channel++) {
      Vector total = zeros();
      for (int64_t row = 0; row < extent.height; row++)
        for (int64_t column = 0; column < extent.width; column++)
          total += load(line(x, block, row, channel) + column * x.pixel_stride);
      store(features + (channel * extent.blocks + block) * LANES, total * share);
    }
  });
}

inline void pool_backward(const float* features, ActivationView out, const void* add, Extent extent, int threads) {
  const float share = 1.0f / static_cast<float>(extent.height * extent.width);
  for_each_line(extent, threads, [&](int64_t, int64_t block, int64_t row, int64_t channel) {
    const Vector mean = load(features + (channel * extent.blocks + block) * LANES) * share;
    Stored* to = line(out, block, row, channel);
    const Stored* start = same_position(add, to, out);
    for (int64_t column = 0; column < extent.width; column++)
      store(to + column * out.pixel_stride, start ? mean + load(start + column * out.pixel_stride) : mean);
  });
}

}  // namespace SPARSECORE_VARIANT
