// Sums over windows of pixels: average pooling and its gradient, and all copies that select, repeat or pad pixels.
#pragma once

#include "pooling/table.hpp"
#include "simd/elementwise.hpp"

namespace SPARSECORE_VARIANT {

using sparsecore::Windows;
using sparsecore::WindowSumParams;

// The sum over one window of a channel that begins at `from`; `weight(row, column)` multiplies each pixel.
template <class Weight>
inline Vector sum_of_window(const Stored* from, const ActivationView& x, const Windows& windows, int64_t row,
                            int64_t column, Weight weight) {
  Vector total = zeros();
  for (int64_t r = windows.first_row[row]; r < windows.last_row[row]; r++)
    for (int64_t c = windows.first_column[column]; c < windows.last_column[column]; c++)
      total += weight(r, c) * load(from + r * x.row_stride + c * x.pixel_stride);
  return total;
}

// Stores add + function(column) at each pixel of a line; the unused lanes of both are zero.
template <class Function>
inline void store_line(const ActivationView& out, const void* add, const Extent& extent, int64_t block, int64_t row,
                       int64_t channel, Function function) {
  Stored* to = line(out, block, row, channel);
  const Stored* start = same_position(add, to, out);
  for (int64_t column = 0; column < extent.width; column++) {
    const int64_t offset = column * out.pixel_stride;
    const Vector value = function(column);
    store(to + offset, start ? load(start + offset) + value : value);
  }
}

inline void window_sum(const WindowSumParams& params) {
  const float *rows = params.row_factors, *columns = params.column_factors;
  const Windows& windows = params.windows;
  for_each_line(params.extent, params.threads, [&](int64_t, int64_t block, int64_t row, int64_t channel) {
    const Stored* from = line(params.x, block, 0, channel);
    const auto store_with = [&](auto function) {
      store_line(params.out, params.add, params.extent, block, row, channel, function);
    };
    if (params.by_input)
      store_with([&](int64_t column) {
        return sum_of_window(from, params.x, windows, row, column,
                             [&](int64_t r, int64_t c) { return rows[r] * columns[c]; });
      });
    else
      store_with([&](int64_t column) {
        const Vector total = sum_of_window(from, params.x, windows, row, column, [](int64_t, int64_t) { return 1.0f; });
        return rows[row] * columns[column] * total;
      });
  });
}

}  // namespace SPARSECORE_VARIANT
