// Where the outputs of a convolution are, and what is added to them.
#pragma once

#include "conv/prefetcher.hpp"

namespace SPARSECORE_VARIANT {

// The outputs of a convolution, and what is added to them.
struct ConvolutionOutput {
  ActivationView out;
  const void* add;  // laid out as `out`, or null

  void prefetch(const RowRange& band, Prefetcher& prefetcher) const {
    prefetcher.add(out, band);
    ActivationView start = out;
    start.data = const_cast<void*>(add);
    if (add) prefetcher.add(start, band);
  }

  // The outputs `offset` values further on.
  ConvolutionOutput shifted(int64_t offset) const {
    ConvolutionOutput output = *this;
    output.out.data = static_cast<Stored*>(out.data) + offset;
    if (add) output.add = static_cast<const Stored*>(add) + offset;
    return output;
  }
};

// Loads a tile of outputs from memory that is laid out as `view`.
template <int ROWS, int COLUMNS>
inline __attribute__((always_inline)) void load_tile(const ActivationView& view, const Stored* from,
                                                     Vector (&outputs)[ROWS * COLUMNS]) {
  for (int r = 0; r < ROWS; r++)
    for (int c = 0; c < COLUMNS; c++)
      outputs[r * COLUMNS + c] = load(from + r * view.row_stride + c * view.pixel_stride);
}

template <int ROWS, int COLUMNS>
inline __attribute__((always_inline)) void store_tile(const ActivationView& view, Stored* to,
                                                      const Vector (&outputs)[ROWS * COLUMNS]) {
  for (int r = 0; r < ROWS; r++)
    for (int c = 0; c < COLUMNS; c++) store(to + r * view.row_stride + c * view.pixel_stride, outputs[r * COLUMNS + c]);
}

}  // namespace SPARSECORE_VARIANT
