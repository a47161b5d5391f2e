// Computes the rows of floats that a part of a convolution reads, where these are a function of what is in memory or
// are not stored as floats.
#pragma once

#include "conv/prefetcher.hpp"
#include "runtime/scratch.hpp"

namespace SPARSECORE_VARIANT {

using sparsecore::ConvolutionInput;

inline void fill_zeros(float* to, int64_t count) {
  for (int64_t i = 0; i < count; i += LANES) store(to + i, zeros());
}

// Stores function(offset) at each pixel of a row of contiguous pixels, and zeros in the lanes that hold no image.
template <class Function>
void fill_row(float* to, int64_t width, int lanes, Function function) {
  for (int64_t column = 0; column < width; column++) {
    const Vector vector = function(column * LANES);
    store(to + column * LANES, lanes == LANES ? vector : first_lanes(vector, lanes));
  }
}

inline void compute_row(const ConvolutionInput& input, int64_t block, int64_t row, int64_t channel, int lanes,
                        float* to) {
  const Stored* from = at(input.pixels, block, row, 0) + channel * input.pixels.channel_stride;
  if (!input.scale) return fill_row(to, input.width, lanes, [&](int64_t offset) { return load(from + offset); });
  const float scale = input.scale[channel], shift = input.shift[channel];
  if (!input.other.data)
    return fill_row(to, input.width, lanes,
                    [&](int64_t offset) { return rectified(scale * load(from + offset) + shift); });
  const Stored* other = at(input.other, block, row, 0) + channel * input.other.channel_stride;
  const float other_scale = input.other_scale[channel];
  fill_row(to, input.width, lanes,
           [&](int64_t offset) { return scale * load(from + offset) + (other_scale * load(other + offset) + shift); });
}

// The rows that a part reads, laid out as the input itself; the pixels outside of the image are zero. They are computed
// into scratch memory shortly before they are read, or are the input's own memory where nothing is to be computed.
class InputRows {
 public:
  InputRows(const ConvolutionInput& input, const Extent& extent, const RowRange& part, Scratch& scratch)
      : input_(input),
        block_(part.block),
        lanes_(lanes_in_use(extent, part.block, 0)),
        in_place_(STORED_AS_FLOAT && !input.scale) {
    const auto& [data, block_stride, row_stride, channel_stride, pixel_stride] = input.pixels;
    view_ = {in_place_ ? static_cast<float*>(data) : nullptr, block_stride, row_stride, channel_stride, pixel_stride};
    if (!in_place_) {
      next_ = part.first_row * input.row_step + input.first_row;
      const int64_t rows = (part.last_row - 1) * input.row_step + input.last_row - next_ + 1;
      view_.data = scratch.request(rows * view_.row_stride) + margin() - next_ * view_.row_stride;
      view_.block_stride = 0;
    }
    strided_view_ = view_;
    strided_view_.row_stride *= input.row_step;
    strided_view_.pixel_stride *= input.column_step;
  }

  // Computes what the outputs above `row` read and returns the view, whose pixels are a step of the input apart.
  const FloatView& computed_until(int64_t row) {
    computed_until_ = row;
    if (!in_place_)
      for (const int64_t last = last_row_for(row); next_ <= last; next_++)
        for (int64_t channel = 0; channel < input_.channels && is_read(last - next_); channel++)
          compute(next_, channel, view_.data - margin() + next_ * view_.row_stride + channel * view_.channel_stride);
    return strided_view_;
  }

  // Adds the rows that the outputs of another band read and those before it did not.
  void prefetch(const RowRange& band, Prefetcher& prefetcher) const {
    const bool continues = band.block == block_ && band.first_row == computed_until_;
    const int64_t first =
        continues ? last_row_for(computed_until_) + 1 : band.first_row * input_.row_step + input_.first_row;
    const RowRange rows{band.block, first, last_row_for(band.last_row) + 1};
    prefetcher.add(input_.pixels, rows);
    if (input_.other.data) prefetcher.add(input_.other, rows);
  }

 private:
  int64_t margin() const { return input_.border * LANES; }
  int64_t last_row_for(int64_t row) const { return (row - 1) * input_.row_step + input_.last_row; }

  // Whether any output reads a row so many rows above the last one: small kernels with large strides leave some out.
  bool is_read(int64_t rows_above) const { return rows_above % input_.row_step <= input_.last_row - input_.first_row; }

  void compute(int64_t row, int64_t channel, float* to) const {
    if (row < 0 || row >= input_.height) return fill_zeros(to, view_.channel_stride);
    fill_zeros(to, margin());
    compute_row(input_, block_, row, channel, lanes_, to + margin());
    fill_zeros(to + margin() + input_.width * LANES, margin());
  }

  ConvolutionInput input_;
  int64_t block_;
  int lanes_;
  bool in_place_;
  FloatView view_, strided_view_;
  int64_t next_ = 0, computed_until_ = 0;  // the next input row to compute; the output row of the last call
};

}  // namespace SPARSECORE_VARIANT
