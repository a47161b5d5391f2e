// Layer norm, RMS norm and group norm. Statistics are those of groups of channels, of each pixel or of each image.
//
// Means and variances are computed in two passes, of which the second corrects the rounding error of the first; sums
// are of few terms each. A mean far from zero therefore costs no digits but those that the input has not got.
#pragma once

#include <algorithm>
#include <cmath>

#include "pointwise/math.hpp"
#include "pointwise/table.hpp"
#include "runtime/scratch.hpp"
#include "simd/elementwise.hpp"

namespace SPARSECORE_VARIANT {

using sparsecore::NormalizationBackwardParams;
using sparsecore::NormalizationParams;

// The channels [first, last) of a group.
struct ChannelRange {
  int64_t first, last;
};

inline ChannelRange channels_of_group(const Extent& extent, int64_t group, int64_t groups) {
  const int64_t size = extent.channels / groups;
  return {group * size, (group + 1) * size};
}

inline Vector inverse_deviation(Vector variance, float epsilon) {
  Vector inverse;
  for (int lane = 0; lane < LANES; lane++) inverse[lane] = 1.0f / std::sqrt(variance[lane] + epsilon);
  return inverse;
}

// Mean and inverse deviation, from the sums of differences from `about` and of their squares.
inline VectorPair statistics_of(Vector about, VectorPair sums, float count, bool centered, float epsilon) {
  const Vector rest = centered ? sums.first / count : zeros();
  const Vector variance = at_least(sums.second / count - rest * rest, 0.0f);
  return {about + rest, inverse_deviation(variance, epsilon)};
}

inline Vector kept_lanes(Vector vector, int lanes) { return lanes == LANES ? vector : first_lanes(vector, lanes); }

inline VectorPair load_statistics(const float* from) { return {load_unaligned(from), load_unaligned(from + LANES)}; }

inline void store_statistics(float* to, VectorPair statistics) {
  store_unaligned(to, statistics.first);
  store_unaligned(to + LANES, statistics.second);
}

// Sums by channel of one task, lane by lane: the gradients of scale and shift.
class ChannelSums {
 public:
  ChannelSums(Scratch& scratch, int64_t channels) : sums_(scratch.request(2 * LANES * channels)), channels_(channels) {
    for (int64_t i = 0; i < 2 * channels; i++) store(sums_ + i * LANES, zeros());
  }

  void add(int64_t channel, Vector by_scale, Vector by_shift) {
    float* own = sums_ + 2 * LANES * channel;
    store(own, load(own) + by_scale);
    store(own + LANES, load(own + LANES) + by_shift);
  }

  // Writes two numbers for each channel.
  void write(double* to) const {
    for (int64_t i = 0; i < 2 * channels_; i++) to[i] = sum(load(sums_ + i * LANES));
  }

 private:
  float* sums_;
  int64_t channels_;
};

// ---- Statistics of each pixel ----

// Rows are divided into strips of a few columns, so that the channels of a strip stay in the cache and channels next to
// each other are read in whole pieces.
constexpr int MOST_COLUMNS = 8;

inline int64_t columns_of_tile(const Extent& extent) {
  constexpr int64_t WANTED_TILES = 32;  // enough to occupy the threads
  const int64_t columns = extent.blocks * extent.height * extent.width / WANTED_TILES;
  return std::clamp<int64_t>(columns, 1, MOST_COLUMNS);
}

inline int64_t tiles_per_row(const Extent& extent) {
  const int64_t columns = columns_of_tile(extent);
  return (extent.width + columns - 1) / columns;
}

inline int64_t tile_count(const Extent& extent) { return extent.blocks * extent.height * tiles_per_row(extent); }

// The parts of the work, which depend on the extent alone.
inline int64_t tile_part_count(Extent extent) { return std::min<int64_t>(tile_count(extent), 64); }

// Some columns of a row, and the lanes in use in each.
template <int COLUMNS>
struct PixelTile {
  int64_t block, row, column;
  int lanes[COLUMNS];

  PixelTile(const Extent& extent, int64_t block, int64_t row, int64_t column) : block(block), row(row), column(column) {
    for (int i = 0; i < COLUMNS; i++) lanes[i] = lanes_in_use(extent, block, column + i);
  }

  Stored* address(const ActivationView& view, int64_t channel) const {
    return line(view, block, row, channel) + column * view.pixel_stride;
  }

  // The statistics of a column, (pixels, groups, 2, lanes).
  int64_t statistics_offset(const Extent& extent, int64_t groups, int64_t group, int i) const {
    const int64_t pixel = (block * extent.height + row) * extent.width + column + i;
    return (pixel * groups + group) * 2 * LANES;
  }
};

// Two sums for each column over some channels, of the vectors that function(channel, column) returns.
template <int COLUMNS, class Function>
void sum_over_channels(ChannelRange channels, VectorPair (&totals)[COLUMNS], Function function) {
  constexpr int64_t CHUNK = 32;
  for (int i = 0; i < COLUMNS; i++) totals[i] = {zeros(), zeros()};
  for (int64_t first = channels.first; first < channels.last; first += CHUNK) {
    Vector one[COLUMNS] = {}, other[COLUMNS] = {};
    const int64_t last = std::min(channels.last, first + CHUNK);
    for (int64_t channel = first; channel < last; channel++)
      for (int i = 0; i < COLUMNS; i++) {
        const VectorPair pair = function(channel, i);
        one[i] += pair.first;
        other[i] += pair.second;
      }
    for (int i = 0; i < COLUMNS; i++) totals[i].first += one[i], totals[i].second += other[i];
  }
}

template <int COLUMNS>
void normalize_tile(const NormalizationParams& params, int64_t block, int64_t row, int64_t column) {
  const PixelTile<COLUMNS> tile(params.extent, block, row, column);
  const int64_t x_stride = params.x.pixel_stride, out_stride = params.out.pixel_stride;
  for (int64_t group = 0; group < params.groups; group++) {
    const ChannelRange channels = channels_of_group(params.extent, group, params.groups);
    const float count = static_cast<float>(channels.last - channels.first);
    const auto x_at = [&](int64_t channel, int i) { return load(tile.address(params.x, channel) + i * x_stride); };
    VectorPair totals[COLUMNS];
    Vector about[COLUMNS] = {};
    if (params.centered) {
      sum_over_channels(channels, totals,
                        [&](int64_t channel, int i) { return VectorPair{x_at(channel, i), zeros()}; });
      for (int i = 0; i < COLUMNS; i++) about[i] = totals[i].first / count;
    }
    sum_over_channels(channels, totals, [&](int64_t channel, int i) {
      const Vector difference = x_at(channel, i) - about[i];
      return VectorPair{difference, difference * difference};
    });
    Vector mean[COLUMNS], inverse[COLUMNS];
    for (int i = 0; i < COLUMNS; i++) {
      const auto [first, second] = statistics_of(about[i], totals[i], count, params.centered, params.epsilon);
      mean[i] = first, inverse[i] = kept_lanes(second, tile.lanes[i]);
      store_statistics(params.statistics + tile.statistics_offset(params.extent, params.groups, group, i),
                       {mean[i], inverse[i]});
    }
    for (int64_t channel = channels.first; channel < channels.last; channel++) {
      const float scale = params.scale[channel], shift = params.shift[channel];
      Stored* to = tile.address(params.out, channel);
      for (int i = 0; i < COLUMNS; i++) {
        const Vector y = (x_at(channel, i) - mean[i]) * inverse[i] * scale + shift;
        store(to + i * out_stride, kept_lanes(y, tile.lanes[i]));
      }
    }
  }
}

template <int COLUMNS>
void normalize_tile_backward(const NormalizationBackwardParams& params, ChannelSums& sums, int64_t block, int64_t row,
                             int64_t column) {
  const PixelTile<COLUMNS> tile(params.extent, block, row, column);
  const ActivationView &x = params.x, &gradient = params.gradient, &out = params.out;
  for (int64_t group = 0; group < params.groups; group++) {
    const ChannelRange channels = channels_of_group(params.extent, group, params.groups);
    const float count = static_cast<float>(channels.last - channels.first);
    Vector mean[COLUMNS], inverse[COLUMNS];
    for (int i = 0; i < COLUMNS; i++) {
      const int64_t offset = tile.statistics_offset(params.extent, params.groups, group, i);
      const auto [first, second] = load_statistics(params.statistics + offset);
      mean[i] = first, inverse[i] = kept_lanes(second, tile.lanes[i]);
    }
    // of one channel: the normalized input and the gradient
    const auto read = [&](int64_t channel, int i) {
      const Vector given = load(tile.address(gradient, channel) + i * gradient.pixel_stride);
      return VectorPair{(load(tile.address(x, channel) + i * x.pixel_stride) - mean[i]) * inverse[i],
                        kept_lanes(given, tile.lanes[i])};
    };
    VectorPair totals[COLUMNS] = {};
    for (int64_t channel = channels.first; channel < channels.last; channel++) {
      const float scale = params.scale[channel];
      Vector by_scale = zeros(), by_shift = zeros();
      for (int i = 0; i < COLUMNS; i++) {
        const auto [normalized, given] = read(channel, i);
        const Vector product = given * normalized;
        by_scale += product, by_shift += given;
        totals[i].first += scale * given, totals[i].second += scale * product;
      }
      sums.add(channel, by_scale, by_shift);
    }
    Vector by_mean[COLUMNS], by_deviation[COLUMNS];
    for (int i = 0; i < COLUMNS; i++) {
      by_mean[i] = params.centered ? totals[i].first / count : zeros();
      by_deviation[i] = totals[i].second / count;
    }
    for (int64_t channel = channels.first; channel < channels.last; channel++) {
      const float scale = params.scale[channel];
      Stored* to = tile.address(out, channel);
      const Stored* add = same_position(params.add, to, out);
      for (int i = 0; i < COLUMNS; i++) {
        const auto [normalized, given] = read(channel, i);
        Vector passed = inverse[i] * (scale * given - by_mean[i] - normalized * by_deviation[i]);
        if (add) passed += load(add + i * out.pixel_stride);
        store(to + i * out.pixel_stride, kept_lanes(passed, tile.lanes[i]));
      }
    }
  }
}

// Calls function(constant, block, row, column) for each tile of a part; the constant's value is its number of columns.
template <class Function, int... WIDTHS>
void for_each_pixel_tile(const Extent& extent, int64_t part, Function function, std::integer_sequence<int, WIDTHS...>) {
  const int64_t tiles = tile_count(extent), parts = tile_part_count(extent), strips = tiles_per_row(extent);
  for (int64_t tile = tiles * part / parts; tile < tiles * (part + 1) / parts; tile++) {
    const int64_t number = tile / strips, strip = tile % strips;
    const int64_t column = extent.width * strip / strips, next = extent.width * (strip + 1) / strips;
    const int64_t block = number / extent.height, row = number % extent.height;
    (void)((next - column == WIDTHS + 1 &&
            (function(std::integral_constant<int, WIDTHS + 1>{}, block, row, column), true)) ||
           ...);
  }
}

using TileWidths = std::make_integer_sequence<int, MOST_COLUMNS>;

inline void normalize_pixels(const NormalizationParams& params) {
  parallel_for(tile_part_count(params.extent), params.threads, [&](int64_t part) {
    for_each_pixel_tile(
        params.extent, part,
        [&](auto columns, int64_t block, int64_t row, int64_t column) {
          normalize_tile<decltype(columns)::value>(params, block, row, column);
        },
        TileWidths{});
  });
}

inline void normalize_pixels_backward(const NormalizationBackwardParams& params) {
  parallel_for(tile_part_count(params.extent), params.threads, [&](int64_t part) {
    static thread_local Scratch scratch;
    ChannelSums sums(scratch, params.extent.channels);
    for_each_pixel_tile(
        params.extent, part,
        [&](auto columns, int64_t block, int64_t row, int64_t column) {
          normalize_tile_backward<decltype(columns)::value>(params, sums, block, row, column);
        },
        TileWidths{});
    sums.write(params.sums + part * params.extent.channels * 2);
  });
}

// ---- Statistics of each image ----

inline int64_t block_count(Extent extent) { return extent.blocks; }

// Two sums over the pixels of some channels of a block, of the vectors that function(row, channel, column) returns.
template <class Function>
VectorPair sum_over_pixels(const Extent& extent, ChannelRange channels, Function function) {
  VectorPair totals{zeros(), zeros()};
  for (int64_t row = 0; row < extent.height; row++)
    for (int64_t channel = channels.first; channel < channels.last; channel++) {
      Vector first = zeros(), second = zeros();
      for (int64_t column = 0; column < extent.width; column++) {
        const VectorPair pair = function(row, channel, column);
        first += pair.first, second += pair.second;
      }
      totals.first += first, totals.second += second;
    }
  return totals;
}

inline void normalize_images(const NormalizationParams& params) {
  const Extent& extent = params.extent;
  const ActivationView &x = params.x, &out = params.out;
  parallel_for(extent.blocks * params.groups, params.threads, [&](int64_t task) {
    const int64_t block = task / params.groups, group = task % params.groups;
    const ChannelRange channels = channels_of_group(extent, group, params.groups);
    const float count = static_cast<float>((channels.last - channels.first) * extent.height * extent.width);
    const int lanes = lanes_in_use(extent, block, 0);
    const auto x_at = [&](int64_t row, int64_t channel, int64_t column) {
      return load(line(x, block, row, channel) + column * x.pixel_stride);
    };
    Vector about = zeros();
    if (params.centered)
      about = sum_over_pixels(extent, channels,
                              [&](int64_t row, int64_t channel, int64_t column) {
                                return VectorPair{x_at(row, channel, column), zeros()};
                              })
                  .first /
              count;
    const VectorPair totals = sum_over_pixels(extent, channels, [&](int64_t row, int64_t channel, int64_t column) {
      const Vector difference = x_at(row, channel, column) - about;
      return VectorPair{difference, difference * difference};
    });
    auto [mean, inverse] = statistics_of(about, totals, count, params.centered, params.epsilon);
    inverse = kept_lanes(inverse, lanes);
    store_statistics(params.statistics + task * 2 * LANES, {mean, inverse});
    for (int64_t row = 0; row < extent.height; row++)
      for (int64_t channel = channels.first; channel < channels.last; channel++) {
        const float scale = params.scale[channel], shift = params.shift[channel];
        Stored* to = line(out, block, row, channel);
        for (int64_t column = 0; column < extent.width; column++)
          store(to + column * out.pixel_stride,
                kept_lanes((x_at(row, channel, column) - mean) * inverse * scale + shift, lanes));
      }
  });
}

inline void normalize_images_backward(const NormalizationBackwardParams& params) {
  const Extent& extent = params.extent;
  const ActivationView &x = params.x, &gradient = params.gradient, &out = params.out;
  parallel_for(extent.blocks * params.groups, params.threads, [&](int64_t task) {
    static thread_local Scratch scratch;
    const int64_t block = task / params.groups, group = task % params.groups;
    const ChannelRange channels = channels_of_group(extent, group, params.groups);
    const float count = static_cast<float>((channels.last - channels.first) * extent.height * extent.width);
    const int lanes = lanes_in_use(extent, block, 0);
    const auto [mean, stored_inverse] = load_statistics(params.statistics + task * 2 * LANES);
    const Vector inverse = kept_lanes(stored_inverse, lanes), centre = mean;
    // of one entry: the normalized input and the gradient
    const auto read = [&](int64_t row, int64_t channel, int64_t column) {
      const Vector given = load(line(gradient, block, row, channel) + column * gradient.pixel_stride);
      return VectorPair{(load(line(x, block, row, channel) + column * x.pixel_stride) - centre) * inverse,
                        kept_lanes(given, lanes)};
    };
    ChannelSums sums(scratch, channels.last - channels.first);
    VectorPair totals{zeros(), zeros()};
    for (int64_t row = 0; row < extent.height; row++)
      for (int64_t channel = channels.first; channel < channels.last; channel++) {
        Vector by_scale = zeros(), by_shift = zeros();
        for (int64_t column = 0; column < extent.width; column++) {
          const auto [normalized, given] = read(row, channel, column);
          by_scale += given * normalized, by_shift += given;
        }
        sums.add(channel - channels.first, by_scale, by_shift);
        totals.first += params.scale[channel] * by_shift, totals.second += params.scale[channel] * by_scale;
      }
    sums.write(params.sums + (block * extent.channels + channels.first) * 2);
    const Vector by_mean = params.centered ? totals.first / count : zeros();
    const Vector by_deviation = totals.second / count;
    for (int64_t row = 0; row < extent.height; row++)
      for (int64_t channel = channels.first; channel < channels.last; channel++) {
        const float scale = params.scale[channel];
        Stored* to = line(out, block, row, channel);
        const Stored* add = same_position(params.add, to, out);
        for (int64_t column = 0; column < extent.width; column++) {
          const auto [normalized, given] = read(row, channel, column);
          Vector passed = inverse * (scale * given - by_mean - normalized * by_deviation);
          if (add) passed += load(add + column * out.pixel_stride);
          store(to + column * out.pixel_stride, kept_lanes(passed, lanes));
        }
      }
  });
}

}  // namespace SPARSECORE_VARIANT
