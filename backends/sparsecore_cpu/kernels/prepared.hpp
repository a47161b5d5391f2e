// The input of a part of a convolution as floats, where that is a function of what lies in memory, or no floats do.
#pragma once

#include "ahead.hpp"
#include "scratch.hpp"

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
  const Stored* from = at(input.pixels, block, row, 0) + channel * input.pixels.channel;
  if (!input.scale) return fill_line(to, input.width, live, [&](int64_t place) { return load(from + place); });
  const float scale = input.scale[channel], shift = input.shift[channel];
  if (!input.other.data)
    return fill_line(to, input.width, live, [&](int64_t place) {
      const Vector value = scale * load(from + place) + shift;
      return value > zeros() ? value : zeros();
    });
  const Stored* other = at(input.other, block, row, 0) + channel * input.other.channel;
  const float by_other = input.by_other[channel];
  fill_line(to, input.width, live,
            [&](int64_t place) { return scale * load(from + place) + (by_other * load(other + place) + shift); });
}

// The rows that a part reads, laid out as the input itself; what lies beyond the image is zero. They are computed as
// they are asked for, shortly before they are read.
class Prepared {
 public:
  Prepared(const Input& input, const Extent& extent, const Part& part, Scratch& scratch)
      : input_(input), block_(part.block), live_(live_lanes(extent, part.block, 0)),
        as_stored_(STORED_AS_COMPUTED && !input.scale) {
    const auto& [data, block, row, channel, pixel] = input.pixels;
    pixels_ = {as_stored_ ? static_cast<float*>(data) : nullptr, block, row, channel, pixel};
    if (!as_stored_) {
      next_ = part.first_row * input.step + input.first_row;
      const int64_t rows = (part.last_row - 1) * input.step + input.last_row - next_ + 1;
      pixels_.data = scratch.of(rows * pixels_.row) + margin() - next_ * pixels_.row;
      pixels_.block = 0;
    }
    stepped_ = pixels_;
    stepped_.row *= input.step;
    stepped_.pixel *= input.step;
  }

  // With those for all outputs above `row`.
  const Floats& above(int64_t row) {
    above_ = row;
    if (!as_stored_)
      for (const int64_t last = last_for(row); next_ <= last; next_++)
        for (int64_t channel = 0; channel < input_.channels && is_read(last - next_); channel++)
          line(next_, channel, pixels_.data - margin() + next_ * pixels_.row + channel * pixels_.channel);
    return stepped_;
  }

  // What the outputs of another band read, and those so far did not.
  void soon(const Part& band, Ahead& ahead) const {
    const bool goes_on = band.block == block_ && band.first_row == above_;
    const int64_t first = goes_on ? last_for(above_) + 1 : band.first_row * input_.step + input_.first_row;
    const int64_t last = last_for(band.last_row) + 1;
    ahead.rows(input_.pixels, band.block, first, last);
    if (input_.other.data) ahead.rows(input_.other, band.block, first, last);
  }

 private:
  int64_t margin() const { return input_.border * LANES; }
  int64_t last_for(int64_t row) const { return (row - 1) * input_.step + input_.last_row; }

  // So many rows above the last one that an output reads: small kernels with large strides leave some out.
  bool is_read(int64_t rows_above) const { return rows_above % input_.step <= input_.last_row - input_.first_row; }

  void line(int64_t row, int64_t channel, float* to) const {
    if (row < 0 || row >= input_.height) return empty(to, pixels_.channel);
    empty(to, margin());
    prepare_line(input_, block_, row, channel, live_, to + margin());
    empty(to + margin() + input_.width * LANES, margin());
  }

  Input input_;
  int64_t block_;
  int live_;
  bool as_stored_;
  Floats pixels_, stepped_;
  int64_t next_ = 0, above_ = 0;
};

}  // namespace SPARSECORE_VARIANT
