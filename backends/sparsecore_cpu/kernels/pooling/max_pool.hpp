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
  Vector read(const Stored* from) const {
    const Vector value = scale * load(from) + shift;
    return value > zeros() ? value : zeros();
  }
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

// Rows of the input's gradient in floats, to which windows add; each is written out when no window reaches it any more.
class GradientRows {
 public:
  GradientRows(const MaxPoolBackwardParams& params, int64_t block, int64_t channel, Scratch& scratch)
      : params_(params),
        block_(block),
        channel_(channel),
        floats_(scratch.request(params.tallest * params.width * LANES)) {}

  // The sums over all rows that were written.
  const double* sums() const { return sums_; }

  // Writes the rows before `first`, and makes those before `last` ready.
  void move_to(int64_t first, int64_t last) {
    for (; written_ < first; written_++) {
      if (ready_ == written_) clear(ready_++);
      write(written_);
    }
    for (; ready_ < last; ready_++) clear(ready_);
  }

  float* row(int64_t number) const { return floats_ + number % params_.tallest * params_.width * LANES; }

 private:
  void clear(int64_t number) const {
    float* floats = row(number);
    for (int64_t column = 0; column < params_.width; column++) store(floats + column * LANES, zeros());
  }

  void write(int64_t number) {
    const float* floats = row(number);
    Stored* to = line(params_.out, block_, number, channel_);
    const Stored* start = same_position(params_.add, to, params_.out);
    const ReluMask* mask = params_.mask;
    const Stored* input = mask ? line(mask->input, block_, number, channel_) : nullptr;
    Vector total = zeros(), products = zeros();
    for (int64_t column = 0; column < params_.width; column++) {
      const int64_t offset = column * params_.out.pixel_stride;
      Vector gradient = load(floats + column * LANES);
      if (start) gradient += load(start + offset);
      if (mask) {
        const Vector x = load(input + column * mask->input.pixel_stride);
        gradient = mask->scale[channel_] * x + mask->shift[channel_] > zeros() ? gradient : zeros();
        total += gradient, products += gradient * (x - mask->mean[channel_]);
      }
      store(to + offset, gradient);
    }
    if (mask) sums_[0] += sum(total), sums_[1] += sum(products);
  }

  const MaxPoolBackwardParams& params_;
  int64_t block_, channel_;
  float* floats_;
  double sums_[2] = {0, 0};
  int64_t written_ = 0, ready_ = 0;  // the next row to write, and to clear
};

inline void max_pool_backward(const MaxPoolBackwardParams& params) {
  const ActivationView &x = params.x.pixels, &gradient = params.gradient;
  const Windows& windows = params.windows;
  const Extent& extent = params.extent;
  parallel_for(extent.blocks * extent.channels, params.threads, [&](int64_t task) {
    static thread_local Scratch scratch;
    const int64_t block = task / extent.channels, channel = task % extent.channels;
    const Stored* from = line(x, block, 0, channel);
    GradientRows rows(params, block, channel, scratch);
    static thread_local std::vector<float*> reached;  // the rows of a window
    reached.resize(params.tallest);
    for (int64_t row = 0; row < extent.height; row++) {
      rows.move_to(windows.first_row[row], windows.last_row[row]);
      const Stored* given = line(gradient, block, row, channel);
      const int64_t height = windows.last_row[row] - windows.first_row[row];
      for (int64_t r = 0; r < height; r++) reached[r] = rows.row(windows.first_row[row] + r);
      with_pixels_of(params.x, channel, [&](auto reader) {
        for (int64_t column = 0; column < extent.width; column++) {
          const Integers found = Largest(reader, from, x, windows, row, column).number;
          const Vector own = load(given + column * gradient.pixel_stride);
          int32_t count = 0;
          for (int64_t r = 0; r < height; r++)
            for (int64_t c = windows.first_column[column]; c < windows.last_column[column]; c++, count++) {
              float* to = reached[r] + c * LANES;
              store(to, load(to) + (found == Integers{} + count ? own : zeros()));
            }
        }
      });
    }
    rows.move_to(params.height, params.height);
    if (params.mask) std::copy(rows.sums(), rows.sums() + 2, params.sums + task * 2);
  });
}

}  // namespace SPARSECORE_VARIANT
