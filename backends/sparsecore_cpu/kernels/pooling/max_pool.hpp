// Max pooling and its gradient, which finds the maxima again: to keep their positions would take as much memory as it
// saves arithmetic.
#pragma once

#include <algorithm>
#include <vector>

#include "pooling/table.hpp"
#include "runtime/scratch.hpp"
#include "simd/elementwise.hpp"

namespace SPARSECORE_VARIANT {

using sparsecore::MaxPoolBackwardParams;
using sparsecore::MaxPoolParams;
using sparsecore::PooledInput;
using sparsecore::ReluMask;
using sparsecore::Windows;

typedef int32_t Integers __attribute__((vector_size(LANES * sizeof(int32_t)), may_alias));

// The lanes in which a value takes the place of the largest one before it; NaN always does, and nothing replaces it.
inline Integers replaces(Vector value, Vector largest) { return (value > largest) | (value != value); }

// Reads pixels as they are.
struct PlainPixels {
  PlainPixels(const PooledInput&, int64_t) {}
  Vector read(const Stored* from) const { return load(from); }
};

// Reads relu(scale * pixel + shift).
struct RectifiedPixels {
  float scale, shift;

  RectifiedPixels(const PooledInput& x, int64_t channel) : scale(x.scale[channel]), shift(x.shift[channel]) {}
  Vector read(const Stored* from) const { return rectified(scale * load(from) + shift); }
};

// Calls function(pixels) with an object of the type that reads this input.
template <class Function>
void with_pixels_of(const PooledInput& x, int64_t channel, Function function) {
  x.scale ? function(RectifiedPixels(x, channel)) : function(PlainPixels(x, channel));
}

// The largest pixel of a window of a channel that begins at `from`, and for each lane which one it is, counted row by
// row.
struct Largest {
  Vector value;
  Integers number;

  template <class Pixels>
  Largest(const Pixels& reader, const Stored* from, const ActivationView& x, const Windows& windows, int64_t row,
          int64_t column) {
    const int64_t first = windows.first_column[column], last = windows.last_column[column];
    const Stored* pixels = from + windows.first_row[row] * x.row_stride;
    value = reader.read(pixels + first * x.pixel_stride), number = Integers{};
    int32_t count = 0;
    for (int64_t r = windows.first_row[row]; r < windows.last_row[row]; r++, pixels += x.row_stride)
      for (int64_t c = first; c < last; c++, count++) {
        const Vector candidate = reader.read(pixels + c * x.pixel_stride);
        const Integers taken = replaces(candidate, value);
        value = taken ? candidate : value;
        number = taken ? Integers{} + count : number;
      }
  }
};

inline void max_pool(const MaxPoolParams& params) {
  const ActivationView &x = params.x.pixels, &out = params.out;
  for_each_line(params.extent, params.threads, [&](int64_t, int64_t block, int64_t row, int64_t channel) {
    const Stored* from = line(x, block, 0, channel);
    Stored* to = line(out, block, row, channel);
    with_pixels_of(params.x, channel, [&](auto reader) {
      for (int64_t column = 0; column < params.extent.width; column++) {
        const Vector largest = Largest(reader, from, x, params.windows, row, column).value;
        const int lanes = lanes_in_use(params.extent, block, column);
        store(to + column * out.pixel_stride, lanes == LANES ? largest : first_lanes(largest, lanes));
      }
    });
  });
}

// Rows of some channels of the input's gradient in floats, to which windows add; each is written out when no window
// reaches it any more.
class GradientRows {
 public:
  GradientRows(const MaxPoolBackwardParams& params, int64_t block, int64_t first_channel, int64_t last_channel,
               Scratch& scratch)
      : params_(params),
        block_(block),
        first_(first_channel),
        last_(last_channel),
        floats_(scratch.request((last_ - first_) * params.tallest * params.width * LANES)) {}

  // Writes the rows before `first`, and makes those before `last` ready.
  void move_to(int64_t first, int64_t last) {
    for (; written_ < first; written_++) {
      if (ready_ == written_) clear(ready_++);
      for (int64_t channel = first_; channel < last_; channel++) write(written_, channel);
    }
    while (ready_ < last) clear(ready_++);
  }

  float* row(int64_t number, int64_t channel) const {
    return floats_ + (number % params_.tallest * (last_ - first_) + channel - first_) * params_.width * LANES;
  }

 private:
  void clear(int64_t number) const {
    float* floats = row(number, first_);
    for (int64_t i = 0; i < (last_ - first_) * params_.width; i++) store(floats + i * LANES, zeros());
  }

  void write(int64_t number, int64_t channel) const {
    const float* floats = row(number, channel);
    Stored* to = line(params_.out, block_, number, channel);
    const Stored* start = same_position(params_.add, to, params_.out);
    const ReluMask* mask = params_.mask;
    const Stored* input = mask ? line(mask->input, block_, number, channel) : nullptr;
    Vector total = zeros(), products = zeros();
    for (int64_t column = 0; column < params_.width; column++) {
      const int64_t offset = column * params_.out.pixel_stride;
      Vector gradient = load(floats + column * LANES);
      if (start) gradient += load(start + offset);
      if (mask) {
        const Vector x = load(input + column * mask->input.pixel_stride);
        gradient = mask->scale[channel] * x + mask->shift[channel] > zeros() ? gradient : zeros();
        total += gradient, products += gradient * (x - mask->mean[channel]);
      }
      store(to + offset, gradient);
    }
    if (!mask) return;
    double* sums = params_.sums + (block_ * params_.extent.channels + channel) * 2;
    sums[0] += sum(total), sums[1] += sum(products);
  }

  const MaxPoolBackwardParams& params_;
  int64_t block_, first_, last_;  // the channels [first, last)
  float* floats_;
  int64_t written_ = 0, ready_ = 0;  // the next row to write, and to clear
};

// The channels of one task: rows of several channels are contiguous in memory.
constexpr int64_t POOLED_CHANNELS = 8;

inline void max_pool_backward(const MaxPoolBackwardParams& params) {
  const ActivationView &x = params.x.pixels, &gradient = params.gradient;
  const Windows& windows = params.windows;
  const Extent& extent = params.extent;
  const int64_t ranges = (extent.channels + POOLED_CHANNELS - 1) / POOLED_CHANNELS;
  for (int64_t i = 0; params.mask && i < extent.blocks * extent.channels * 2; i++) params.sums[i] = 0;
  parallel_for(extent.blocks * ranges, params.threads, [&](int64_t task) {
    static thread_local Scratch scratch;
    const int64_t block = task / ranges, first = task % ranges * POOLED_CHANNELS;
    const int64_t last = std::min(extent.channels, first + POOLED_CHANNELS);
    GradientRows rows(params, block, first, last, scratch);
    static thread_local std::vector<float*> addresses;
    addresses.resize(params.tallest);
    float** const reached = addresses.data();  // the rows of a window
    for (int64_t row = 0; row < extent.height; row++) {
      rows.move_to(windows.first_row[row], windows.last_row[row]);
      const int64_t height = windows.last_row[row] - windows.first_row[row];
      for (int64_t channel = first; channel < last; channel++) {
        const Stored *from = line(x, block, 0, channel), *given = line(gradient, block, row, channel);
        for (int64_t r = 0; r < height; r++) reached[r] = rows.row(windows.first_row[row] + r, channel);
        with_pixels_of(params.x, channel, [&](auto reader) {
          for (int64_t column = 0; column < extent.width; column++) {
            const Integers found = Largest(reader, from, x, windows, row, column).number;
            const Vector own = load(given + column * gradient.pixel_stride);
            const int64_t begin = windows.first_column[column], end = windows.last_column[column];
            int32_t count = 0;
            for (int64_t r = 0; r < height; r++)
              for (int64_t c = begin; c < end; c++, count++) {
                float* to = reached[r] + c * LANES;
                store(to, load(to) + (found == Integers{} + count ? own : zeros()));
              }
          }
        });
      }
    }
    rows.move_to(params.height, params.height);
  });
}

}  // namespace SPARSECORE_VARIANT
