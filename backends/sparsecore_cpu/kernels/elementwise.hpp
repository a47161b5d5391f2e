// The passes over activations that no convolution can take along.
#pragma once

#include "convolution.hpp"

namespace SPARSECORE_VARIANT {

// Call visit(part, block, row, channel) for each line of pixels.
template <class Visit>
void by_lines(const Extent& extent, int threads, Visit visit) {
  const int64_t cuts = channel_parts(extent);
  in_parallel(parts(extent) * cuts, threads, [&](int64_t task) {
    const Part part = part_of(extent, task / cuts);
    const int64_t cut = task % cuts;
    const int64_t first = channel_cut(extent, cut, cuts), last = channel_cut(extent, cut + 1, cuts);
    for (int64_t row = part.first_row; row < part.last_row; row++)
      for (int64_t channel = first; channel < last; channel++) visit(task / cuts, part.block, row, channel);
  });
}

inline Stored* line(const Pixels& pixels, int64_t block, int64_t row, int64_t channel) {
  return at(pixels, block, row, 0) + channel * pixels.channel;
}

// The place in another buffer of the same form, or null where there is none.
inline const Stored* alongside(const void* other, const Stored* place, const Pixels& pixels) {
  return other ? static_cast<const Stored*>(other) + (place - static_cast<const Stored*>(pixels.data)) : nullptr;
}

// out = function(channel, column, place of the pixel), with zeros in the lanes beyond the batch.
template <class Function>
void fill(const Pixels& out, const Extent& extent, int64_t block, int64_t row, int64_t channel, Function function) {
  Stored* to = line(out, block, row, channel);
  for (int64_t column = 0; column < extent.width; column++) {
    const Vector vector = function(column);
    const int live = live_lanes(extent, block, column);
    store(to + column * out.pixel, live == LANES ? vector : first_lanes(vector, live));
  }
}

inline void affine(Pixels x, Pixels out, const float* scale, const float* shift, Extent extent, int threads) {
  by_lines(extent, threads, [&](int64_t, int64_t block, int64_t row, int64_t channel) {
    const Stored* from = line(x, block, row, channel);
    const float factor = scale[channel], offset = shift[channel];
    fill(out, extent, block, row, channel,
         [&](int64_t column) { return factor * load(from + column * x.pixel) + offset; });
  });
}

inline void affine_relu(Pixels x, Pixels out, const float* scale, const float* shift, Extent extent, int threads) {
  by_lines(extent, threads, [&](int64_t, int64_t block, int64_t row, int64_t channel) {
    const Stored* from = line(x, block, row, channel);
    const float factor = scale[channel], offset = shift[channel];
    fill(out, extent, block, row, channel, [&](int64_t column) {
      const Vector y = factor * load(from + column * x.pixel) + offset;
      return y > zeros() ? y : zeros();
    });
  });
}

inline void combine(Pixels gradient, Pixels x, Pixels out, const void* add, const float* by_gradient,
                    const float* by_x, const float* constant, Extent extent, int threads) {
  by_lines(extent, threads, [&](int64_t, int64_t block, int64_t row, int64_t channel) {
    const Stored* given = line(gradient, block, row, channel);
    const Stored* from = line(x, block, row, channel);
    const Stored* more = alongside(add, line(out, block, row, channel), out);
    const float first = by_gradient[channel], second = by_x[channel], third = constant[channel];
    fill(out, extent, block, row, channel, [&](int64_t column) {
      const Vector both =
          first * load(given + column * gradient.pixel) + (second * load(from + column * x.pixel) + third);
      return more ? both + load(more + column * out.pixel) : both;
    });
  });
}

// Two sums for each line: of first(column) and second(column), vectors whose lanes beyond the batch count for nothing.
template <class Function>
void sum_lines(const Extent& extent, double* sums, int threads, Function function) {
  for (int64_t i = 0; i < parts(extent) * extent.channels * 2; i++) sums[i] = 0;
  by_lines(extent, threads, [&](int64_t part, int64_t block, int64_t row, int64_t channel) {
    Vector first = zeros(), second = zeros();
    for (int64_t column = 0; column < extent.width; column++) {
      const auto [one, other] = function(block, row, channel, column);
      const int live = live_lanes(extent, block, column);
      first += live == LANES ? one : first_lanes(one, live);
      second += live == LANES ? other : first_lanes(other, live);
    }
    double* own = sums + (part * extent.channels + channel) * 2;
    own[0] += sum(first);
    own[1] += sum(second);
  });
}

struct Two {
  Vector first, second;
};

inline void masked(Pixels gradient, Pixels out, Mask mask, Extent extent, double* sums, int threads) {
  sum_lines(extent, sums, threads, [&](int64_t block, int64_t row, int64_t channel, int64_t column) {
    const Vector x = load(line(mask.input, block, row, channel) + column * mask.input.pixel);
    const Vector given = load(line(gradient, block, row, channel) + column * gradient.pixel);
    const Vector kept = mask.scale[channel] * x + mask.shift[channel] > zeros() ? given : zeros();
    store(line(out, block, row, channel) + column * out.pixel, kept);
    return Two{kept, kept * (x - mask.mean[channel])};
  });
}

inline void moments(Pixels x, const float* about, Extent extent, double* sums, int threads) {
  sum_lines(extent, sums, threads, [&](int64_t block, int64_t row, int64_t channel, int64_t column) {
    const Vector difference = load(line(x, block, row, channel) + column * x.pixel) - about[channel];
    return Two{difference, difference * difference};
  });
}

inline void products(Pixels gradient, Pixels x, const float* mean, Extent extent, double* sums, int threads) {
  sum_lines(extent, sums, threads, [&](int64_t block, int64_t row, int64_t channel, int64_t column) {
    const Vector given = load(line(gradient, block, row, channel) + column * gradient.pixel);
    return Two{given, given * (load(line(x, block, row, channel) + column * x.pixel) - mean[channel])};
  });
}

// The features of channel c and block b lie at (c * blocks + b) * LANES.
inline void pool(Pixels x, float* features, Extent extent, int threads) {
  const float share = 1.0f / static_cast<float>(extent.height * extent.width);
  in_parallel(extent.blocks, threads, [&](int64_t block) {
    for (int64_t channel = 0; channel < extent.channels; channel++) {
      Vector total = zeros();
      for (int64_t row = 0; row < extent.height; row++)
        for (int64_t column = 0; column < extent.width; column++)
          total += load(line(x, block, row, channel) + column * x.pixel);
      store(features + (channel * extent.blocks + block) * LANES, total * share);
    }
  });
}

inline void spread(const float* features, Pixels out, const void* add, Extent extent, int threads) {
  const float share = 1.0f / static_cast<float>(extent.height * extent.width);
  by_lines(extent, threads, [&](int64_t, int64_t block, int64_t row, int64_t channel) {
    const Vector mean = load(features + (channel * extent.blocks + block) * LANES) * share;
    Stored* to = line(out, block, row, channel);
    const Stored* more = alongside(add, to, out);
    for (int64_t column = 0; column < extent.width; column++)
      store(to + column * out.pixel, more ? mean + load(more + column * out.pixel) : mean);
  });
}

}  // namespace SPARSECORE_VARIANT
