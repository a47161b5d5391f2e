// The input of a part of a convolution, where that is a function of what lies in memory.
#pragma once

#include "scratch.hpp"
#include "tiles.hpp"

namespace SPARSECORE_VARIANT {

using sparsecore::Input;

// How many lanes of a pixel belong to the batch.
inline int live_lanes(const Extent& extent, int64_t block, int64_t column) {
  const bool last = extent.features ? column + 1 == extent.width : block + 1 == extent.blocks;
  return last ? static_cast<int>(extent.last_lanes) : LANES;
}

inline void empty(float* to, int64_t count) {
  for (int64_t i = 0; i < count; i += LANES) store(to + i, zeros());
}

// One line of pixels, `function(place)` at each.
template <class Function>
void fill_line(float* to, int64_t width, int live, Function function) {
  for (int64_t column = 0; column < width; column++) {
    const Vector vector = function(column * LANES);
    store(to + column * LANES, live == LANES ? vector : first_lanes(vector, live));
  }
}

inline void prepare_line(const Input& input, int64_t block, int64_t row, int64_t channel, int live, float* to) {
  const float* from = at(input.pixels, block, row, 0).data + channel * input.pixels.channel;
  const float scale = input.scale[channel], shift = input.shift[channel];
  if (!input.other.data)
    return fill_line(to, input.width, live, [&](int64_t place) {
      const Vector value = scale * load(from + place) + shift;
      return value > zeros() ? value : zeros();
    });
  const float* other = at(input.other, block, row, 0).data + channel * input.other.channel;
  const float by_other = input.by_other[channel];
  fill_line(to, input.width, live,
            [&](int64_t place) { return scale * load(from + place) + (by_other * load(other + place) + shift); });
}

// The rows that a part reads, laid out as the input itself; what lies beyond the image is zero.
inline Pixels prepared(const Input& input, const Extent& extent, const Part& part, Scratch& scratch) {
  Pixels pixels = input.pixels;
  if (input.scale) {
    const int64_t first = part.first_row * input.step + input.first_row;
    const int64_t last = (part.last_row - 1) * input.step + input.last_row;
    const int64_t margin = input.border * LANES;
    float* to = scratch.of((last - first + 1) * pixels.row);
    const int live = live_lanes(extent, part.block, 0);
    for (int64_t row = first; row <= last; row++)
      for (int64_t channel = 0; channel < input.channels; channel++) {
        float* line = to + (row - first) * pixels.row + channel * pixels.channel;
        if (row < 0 || row >= input.height) {
          empty(line, pixels.channel);
        } else {
          empty(line, margin);
          prepare_line(input, part.block, row, channel, live, line + margin);
          empty(line + margin + input.width * LANES, margin);
        }
      }
    pixels.data = to + margin - first * pixels.row;
    pixels.block = 0;
  }
  pixels.row *= input.step;
  pixels.pixel *= input.step;
  return pixels;
}

}  // namespace SPARSECORE_VARIANT
