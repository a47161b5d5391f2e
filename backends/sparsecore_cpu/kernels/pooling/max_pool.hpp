// Max pooling and its gradient, which finds the maxima again: to keep their positions would take as much memory as it
// saves arithmetic.
#pragma once

#include "pooling/table.hpp"
#include "runtime/scratch.hpp"
#include "simd/elementwise.hpp"

namespace SPARSECORE_VARIANT {

using sparsecore::MaxPoolBackwardParams;
using sparsecore::MaxPoolParams;
using sparsecore::Windows;

typedef int32_t Integers __attribute__((vector_size(LANES * sizeof(int32_t)), may_alias));

// The lanes in which a value takes the place of the largest one before it; NaN always does, and nothing replaces it.
inline Integers replaces(Vector value, Vector largest) { return (value > largest) | (value != value); }

// Calls visit(row, column) for each pixel of a window, row by row.
template <class Visit>
inline __attribute__((always_inline)) void for_each_pixel(const Windows& windows, int64_t row, int64_t column,
                                                          Visit visit) {
  for (int64_t r = windows.first_row[row]; r < windows.last_row[row]; r++)
    for (int64_t c = windows.first_column[column]; c < windows.last_column[column]; c++) visit(r, c);
}

inline void max_pool(const MaxPoolParams& params) {
  const ActivationView &x = params.x, &out = params.out;
  const Windows& windows = params.windows;
  for_each_line(params.extent, params.threads, [&](int64_t, int64_t block, int64_t row, int64_t channel) {
    const Stored* from = line(x, block, 0, channel);
    Stored* to = line(out, block, row, channel);
    for (int64_t column = 0; column < params.extent.width; column++) {
      const auto pixel = [&](int64_t r, int64_t c) { return load(from + r * x.row_stride + c * x.pixel_stride); };
      Vector largest = pixel(windows.first_row[row], windows.first_column[column]);
      for_each_pixel(windows, row, column, [&](int64_t r, int64_t c) {
        const Vector value = pixel(r, c);
        largest = replaces(value, largest) ? value : largest;
      });
      store(to + column * out.pixel_stride, largest);
    }
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

  // Writes the rows before `first`, and makes those before `last` ready.
  void move_to(int64_t first, int64_t last) {
    for (; written_ < first; written_++) {
      if (ready_ == written_) clear(ready_++);
      write(written_);
    }
    for (; ready_ < last; ready_++) clear(ready_);
  }

  float* at(int64_t row, int64_t column) const {
    return floats_ + (row % params_.tallest * params_.width + column) * LANES;
  }

 private:
  void clear(int64_t row) const {
    for (int64_t column = 0; column < params_.width; column++) store(at(row, column), zeros());
  }

  void write(int64_t row) const {
    Stored* to = line(params_.out, block_, row, channel_);
    const Stored* start = same_position(params_.add, to, params_.out);
    for (int64_t column = 0; column < params_.width; column++) {
      const int64_t offset = column * params_.out.pixel_stride;
      const Vector gradient = load(at(row, column));
      store(to + offset, start ? load(start + offset) + gradient : gradient);
    }
  }

  const MaxPoolBackwardParams& params_;
  int64_t block_, channel_;
  float* floats_;
  int64_t written_ = 0, ready_ = 0;  // the next row to write, and to clear
};

inline void max_pool_backward(const MaxPoolBackwardParams& params) {
  const ActivationView &x = params.x, &gradient = params.gradient;
  const Windows& windows = params.windows;
  const Extent& extent = params.extent;
  parallel_for(extent.blocks * extent.channels, params.threads, [&](int64_t task) {
    static thread_local Scratch scratch;
    const int64_t block = task / extent.channels, channel = task % extent.channels;
    const Stored* from = line(x, block, 0, channel);
    GradientRows rows(params, block, channel, scratch);
    for (int64_t row = 0; row < extent.height; row++) {
      rows.move_to(windows.first_row[row], windows.last_row[row]);
      const Stored* given = line(gradient, block, row, channel);
      for (int64_t column = 0; column < extent.width; column++) {
        const auto pixel = [&](int64_t r, int64_t c) { return load(from + r * x.row_stride + c * x.pixel_stride); };
        Vector largest = pixel(windows.first_row[row], windows.first_column[column]);
        Integers found{};
        int32_t number = 0;
        for_each_pixel(windows, row, column, [&](int64_t r, int64_t c) {
          const Vector value = pixel(r, c);
          const Integers taken = replaces(value, largest);
          largest = taken ? value : largest;
          found = taken ? Integers{} + number : found;
          number++;
        });
        const Vector own = load(given + column * gradient.pixel_stride);
        number = 0;
        for_each_pixel(windows, row, column, [&](int64_t r, int64_t c) {
          float* to = rows.at(r, c);
          store(to, load(to) + (found == Integers{} + number ? own : zeros()));
          number++;
        });
      }
    }
    rows.move_to(params.height, params.height);
  });
}

}  // namespace SPARSECORE_VARIANT
