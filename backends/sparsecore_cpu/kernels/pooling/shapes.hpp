// Copies that change the shape of activations: selections of channels, and images as features.
#pragma once

#include "pooling/window_sum.hpp"

namespace SPARSECORE_VARIANT {

using sparsecore::FlattenParams;
using sparsecore::GatherChannelsParams;

inline void gather_channels(const GatherChannelsParams& params) {
  const ActivationView& x = params.x;
  for_each_line(params.extent, params.threads, [&](int64_t, int64_t block, int64_t row, int64_t channel) {
    const int32_t chosen = params.channels[channel];
    const auto store_with = [&](auto function) {
      store_line(params.out, params.add, params.extent, block, row, channel, function);
    };
    if (chosen < 0) return store_with([](int64_t) { return zeros(); });
    const Stored* from = line(x, block, row, chosen);
    store_with([&](int64_t column) { return load(from + column * x.pixel_stride); });
  });
}

// Calls visit(line of the images, its features, values between the pixels' features) on several threads.
template <class Visit>
void for_each_flat_line(const FlattenParams& params, Visit visit) {
  const Extent& extent = params.extent;
  for_each_line(extent, params.threads, [&](int64_t, int64_t block, int64_t row, int64_t channel) {
    const int64_t feature = params.channels_first ? (channel * extent.height + row) * extent.width
                                                  : row * extent.width * extent.channels + channel;
    const int64_t step = params.channels_first ? 1 : extent.channels;
    visit(line(params.images, block, row, channel), params.features + (feature * extent.blocks + block) * LANES,
          step * extent.blocks * LANES);
  });
}

inline void flatten(const FlattenParams& params) {
  for_each_flat_line(params, [&](const Stored* from, float* to, int64_t step) {
    for (int64_t column = 0; column < params.extent.width; column++)
      store(to + column * step, load(from + column * params.images.pixel_stride));
  });
}

inline void unflatten(const FlattenParams& params) {
  for_each_flat_line(params, [&](Stored* to, const float* from, int64_t step) {
    const Stored* start = same_position(params.add, to, params.images);
    for (int64_t column = 0; column < params.extent.width; column++) {
      const int64_t offset = column * params.images.pixel_stride;
      const Vector value = load(from + column * step);
      store(to + offset, start ? load(start + offset) + value : value);
    }
  });
}

}  // namespace SPARSECORE_VARIANT
