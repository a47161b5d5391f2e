// How the work on an image is divided: into parts for the threads, bands of rows for the caches, and tiles whose
// outputs stay in registers while the weights are applied.
#pragma once

#include <utility>

#include "kernels.hpp"
#include "runtime/thread_pool.hpp"
#include "simd/vector.hpp"

namespace SPARSECORE_VARIANT {

using sparsecore::ActivationView;
using sparsecore::BUNDLE;
using sparsecore::Extent;
using sparsecore::parallel_for;
using sparsecore::ReluMask;
using sparsecore::WeightList;

// Some rows of one block of images.
struct RowRange {
  int64_t block, first_row, last_row;
};

// The parts of the work, which threads take in any order. They depend on the extent alone, so that sums over the parts
// are the same for every number of threads.
inline int64_t parts_per_block(const Extent& extent) { return extent.height >= 32 ? 4 : extent.height >= 4 ? 2 : 1; }
inline int64_t part_count(Extent extent) { return extent.blocks * parts_per_block(extent); }

inline RowRange rows_of_part(const Extent& extent, int64_t part) {
  const int64_t count = parts_per_block(extent), number = part % count;
  const auto first_row = [&](int64_t number) { return extent.height * number / count; };
  return {part / count, first_row(number), first_row(number + 1)};
}

// Where there are few parts for so many threads (a batch of features is one), the channels are divided too. Each range
// computes its inputs again, so that a single thread has one.
inline int64_t channel_range_count(const Extent& extent, int threads) {
  const int64_t tasks = threads == 1 ? 1 : 4 * threads;
  const int64_t wanted = (tasks + part_count(extent) - 1) / part_count(extent);
  const int64_t most = (extent.channels + 7) / 8;
  return wanted < most ? wanted : most;
}

// The first channel of a range of channels, which starts a bundle.
inline int64_t first_channel_of(const Extent& extent, int64_t range, int64_t ranges) {
  return range == ranges ? extent.channels : extent.channels * range / ranges / BUNDLE * BUNDLE;
}

// The bands of a part, which are a few rows high.
class Bands {
 public:
  Bands(const Extent& extent, int64_t part, int64_t rows) : extent_(extent), part_(part), rows_(rows) {}

  // Calls visit(band, next): `next` is the band that the same thread will probably work on next, to prefetch its
  // memory.
  template <class Visit>
  void for_each(Visit visit) const {
    const RowRange part = rows_of_part(extent_, part_);
    for (RowRange band = first_band_of(part); band.first_row < part.last_row;) {
      const bool last = band.last_row >= part.last_row;
      const RowRange next = last ? first_band_of(rows_of_part(extent_, (part_ + 1) % part_count(extent_)))
                                 : first_band_of({part.block, band.last_row, part.last_row});
      visit(band, next);
      band = last ? RowRange{part.block, part.last_row, part.last_row} : next;
    }
  }

 private:
  RowRange first_band_of(const RowRange& rows) const {
    const int64_t last = rows.first_row + rows_;
    return {rows.block, rows.first_row, last < rows.last_row ? last : rows.last_row};
  }

  Extent extent_;
  int64_t part_, rows_;
};

// Floats that are laid out as an activation.
struct FloatView {
  float* data;
  int64_t block_stride, row_stride, channel_stride, pixel_stride;
};

template <class View>
int64_t offset_of(const View& view, int64_t block, int64_t row, int64_t column) {
  return block * view.block_stride + row * view.row_stride + column * view.pixel_stride;
}

// The address of a pixel of the first channel.
inline Stored* at(const ActivationView& view, int64_t block, int64_t row, int64_t column) {
  return static_cast<Stored*>(view.data) + offset_of(view, block, row, column);
}

inline const float* at(const FloatView& view, int64_t block, int64_t row, int64_t column) {
  return view.data + offset_of(view, block, row, column);
}

// How many lanes of a pixel hold images of the batch.
inline int lanes_in_use(const Extent& extent, int64_t block, int64_t column) {
  const bool last = extent.features ? column + 1 == extent.width : block + 1 == extent.blocks;
  return last ? static_cast<int>(extent.last_lanes) : LANES;
}

// Floats from one pixel to the next: constants for strides of 1 and 2, so that the inner loops compute no addresses.
template <int STRIDE>
struct ConstantPixelStride {
  static constexpr int64_t of(const FloatView&) { return STRIDE * LANES; }
};
struct VariablePixelStride {
  static int64_t of(const FloatView& view) { return view.pixel_stride; }
};

// Calls function(pixel stride) with the type that fits the view.
template <class Function>
void with_pixel_stride(const FloatView& view, Function function) {
  if (view.pixel_stride == LANES) return function(ConstantPixelStride<1>{});
  if (view.pixel_stride == 2 * LANES) return function(ConstantPixelStride<2>{});
  function(VariablePixelStride{});
}

// The most columns of a tile: the squarer a tile is, the fewer pixels a kernel reads outside of it.
constexpr int WIDEST_TILE = 8;

// The rows of a tile of so many columns and about `area` pixels.
constexpr int tile_rows(int columns, int area) {
  int rows = 1;
  while (rows < 4 && 2 * rows * columns <= area) rows *= 2;
  return rows;
}

// The number of strips of tiles, next to each other, that cover a row of so many pixels.
inline int64_t strip_count(int64_t width, int widest) { return (width + widest - 1) / widest; }

// The rows of a band: those of the highest tiles of TILE pixels.
inline int64_t band_rows(int64_t width) {
  constexpr int WIDEST = TILE < WIDEST_TILE ? TILE : WIDEST_TILE;
  return tile_rows(static_cast<int>(width / strip_count(width, WIDEST)), TILE);
}

// Calls visitor.tile<ROWS, COLUMNS>(row, column) for tiles of about AREA pixels that cover the rows [first, last) of a
// strip of COLUMNS columns.
template <int AREA, int COLUMNS, class Visitor>
void for_each_tile_of_strip(int64_t first, int64_t last, int64_t column, Visitor& visitor) {
  constexpr int ROWS = tile_rows(COLUMNS, AREA);
  int64_t row = first;
  for (; row + ROWS <= last; row += ROWS) visitor.template tile<ROWS, COLUMNS>(row, column);
  for (; row < last; row++) visitor.template tile<1, COLUMNS>(row, column);
}

// The same for a number of columns that is known at run time, from 1 to the length of the sequence.
template <int AREA, class Visitor, int... WIDTHS>
void for_each_tile_of_strip(int64_t columns, int64_t first, int64_t last, int64_t column, Visitor& visitor,
                            std::integer_sequence<int, WIDTHS...>) {
  (void)((columns == WIDTHS + 1 && (for_each_tile_of_strip<AREA, WIDTHS + 1>(first, last, column, visitor), true)) ||
         ...);
}

// The same for the rows [first, last) of `width` columns, strip by strip.
template <int AREA = TILE, class Visitor>
void for_each_tile(int64_t first, int64_t last, int64_t width, Visitor visitor) {
  constexpr int WIDEST = AREA < WIDEST_TILE ? AREA : WIDEST_TILE;
  const int64_t count = strip_count(width, WIDEST);
  for (int64_t strip = 0; strip < count; strip++) {
    const int64_t column = width * strip / count, next = width * (strip + 1) / count;
    for_each_tile_of_strip<AREA>(next - column, first, last, column, visitor,
                                 std::make_integer_sequence<int, WIDEST>{});
  }
}

}  // namespace SPARSECORE_VARIANT
