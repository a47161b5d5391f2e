// Products and sums of two activations, of which one may be broadcast; and the sums that are their gradients.
#pragma once

#include "pointwise/table.hpp"
#include "simd/elementwise.hpp"

namespace SPARSECORE_VARIANT {

using sparsecore::DropoutParams;
using sparsecore::ProductParams;
using sparsecore::ProductSumParams;

struct Product {
  static Vector of(Vector x, Vector y) { return x * y; }
};

struct Sum {
  static Vector of(Vector x, Vector y) { return x + y; }
};

template <class Operation, class Factor>
void combine_pairs(const ProductParams& params) {
  const ActivationView &x = params.x, &y = params.y, &out = params.out;
  for_each_line(params.extent, params.threads, [&](int64_t, int64_t block, int64_t row, int64_t channel) {
    const Stored* first = line(x, block, row, channel);
    const Factor* second =
        static_cast<const Factor*>(y.data) + offset_of(y, block, row, 0) + channel * y.channel_stride;
    const Stored* add = same_position(params.add, line(out, block, row, channel), out);
    fill_line(out, params.extent, block, row, channel, [&](int64_t column) {
      const Vector combined =
          Operation::of(load(first + column * x.pixel_stride), load(second + column * y.pixel_stride));
      return add ? combined + load(add + column * out.pixel_stride) : combined;
    });
  });
}

// One factor, or the product of both.
inline Vector product_at(const ProductSumParams& params, int64_t block, int64_t row, int64_t channel, int64_t column) {
  const Vector x = load(line(params.x, block, row, channel) + column * params.x.pixel_stride);
  return params.y ? x * load(line(*params.y, block, row, channel) + column * params.y->pixel_stride) : x;
}

// Each task sums over the pixels of a few channels of a block. Lanes without an image hold zeros.
inline void sum_pixels(const ProductSumParams& params) {
  constexpr int64_t CHANNELS = 8;
  const Extent& extent = params.extent;
  const int64_t ranges = (extent.channels + CHANNELS - 1) / CHANNELS;
  parallel_for(extent.blocks * ranges, params.threads, [&](int64_t task) {
    const int64_t block = task / ranges, first = task % ranges * CHANNELS;
    const int64_t count = extent.channels - first < CHANNELS ? extent.channels - first : CHANNELS;
    Vector totals[CHANNELS] = {};
    for (int64_t row = 0; row < extent.height; row++)
      for (int64_t i = 0; i < count; i++) {
        // summing rows by themselves keeps the rounding errors of large images small
        Vector total = zeros();
        for (int64_t column = 0; column < extent.width; column++)
          total += product_at(params, block, row, first + i, column);
        totals[i] += total;
      }
    const bool last_block = block + 1 == extent.blocks;
    for (int64_t i = 0; i < count; i++) {
      const Vector total = last_block ? first_lanes(totals[i], static_cast<int>(extent.last_lanes)) : totals[i];
      store(static_cast<float*>(params.out.data) + (first + i) * params.out.channel_stride +
                block * params.out.pixel_stride,
            total);
    }
  });
}

// Each task sums over the channels of a few pixels of a row.
inline void sum_channels(const ProductSumParams& params) {
  constexpr int64_t COLUMNS = 8;
  const Extent& extent = params.extent;
  const int64_t strips = (extent.width + COLUMNS - 1) / COLUMNS;
  parallel_for(extent.blocks * extent.height * strips, params.threads, [&](int64_t task) {
    const int64_t line_number = task / strips, first = task % strips * COLUMNS;
    const int64_t block = line_number / extent.height, row = line_number % extent.height;
    const int64_t count = extent.width - first < COLUMNS ? extent.width - first : COLUMNS;
    Vector totals[COLUMNS] = {};
    for (int64_t channel = 0; channel < extent.channels; channel++)
      for (int64_t i = 0; i < count; i++) totals[i] += product_at(params, block, row, channel, first + i);
    for (int64_t i = 0; i < count; i++) {
      const int lanes = lanes_in_use(extent, block, first + i);
      store(line(params.out, block, row, 0) + (first + i) * params.out.pixel_stride,
            lanes == LANES ? totals[i] : first_lanes(totals[i], lanes));
    }
  });
}

typedef uint8_t Bytes __attribute__((vector_size(LANES), may_alias));
typedef int32_t Decisions __attribute__((vector_size(LANES * sizeof(int32_t)), may_alias));

inline void dropout(const DropoutParams& params) {
  const ActivationView &x = params.x, &out = params.out;
  const Extent& extent = params.extent;
  for_each_line(extent, params.threads, [&](int64_t, int64_t block, int64_t row, int64_t channel) {
    const Stored* from = line(x, block, row, channel);
    const Stored* add = same_position(params.add, line(out, block, row, channel), out);
    const int64_t number = (block * extent.height + row) * extent.channels + channel;
    const uint8_t* kept = params.kept + number * extent.width * LANES;
    fill_line(out, extent, block, row, channel, [&](int64_t column) {
      Bytes bytes;
      __builtin_memcpy(&bytes, kept + column * LANES, sizeof bytes);
      const Decisions decisions = __builtin_convertvector(bytes, Decisions);
      const Vector scaled = params.factor * load(from + column * x.pixel_stride);
      const Vector y = decisions != Decisions{} ? scaled : zeros();
      return add ? y + load(add + column * out.pixel_stride) : y;
    });
  });
}

}  // namespace SPARSECORE_VARIANT
