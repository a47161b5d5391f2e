// How an image is cut into tiles whose outputs stay in registers while a list of weights runs over them.
#pragma once

#include <utility>

#include "kernels.hpp"
#include "pool.hpp"
#include "stored.hpp"

namespace SPARSECORE_VARIANT {

using sparsecore::Extent;
using sparsecore::Kernels;
using sparsecore::List;
using sparsecore::Mask;
using sparsecore::Pixels;
using sparsecore::BUNDLE;
using sparsecore::in_parallel;

// Tiles as square as may be read the fewest pixels beside their own.
constexpr int WIDEST = 8;

// Rows of a tile of so many columns: as many as make up `area`, up to four.
constexpr int rows_of(int columns, int area) {
  int rows = 1;
  while (rows < 4 && 2 * rows * columns <= area) rows *= 2;
  return rows;
}

// A part of the work: some rows of one block of images. The parts depend on the extent alone, so that sums over them
// come out the same whatever the number of threads.
struct Part {
  int64_t block, first_row, last_row;
};

inline int64_t row_parts(const Extent& extent) { return extent.height >= 32 ? 4 : extent.height >= 4 ? 2 : 1; }
inline int64_t parts(Extent extent) { return extent.blocks * row_parts(extent); }

inline Part part_of(const Extent& extent, int64_t index) {
  const int64_t count = row_parts(extent), number = index % count;
  const auto row = [&](int64_t part) { return extent.height * part / count; };
  return {index / count, row(number), row(number + 1)};
}

// A part is worked off in bands of a few rows.
class Bands {
 public:
  Bands(const Extent& extent, int64_t part, int64_t rows, int threads)
      : extent_(extent), part_(part), rows_(rows), threads_(threads) {}

  // Call visit(band, the one that the same thread will probably work on next).
  template <class Visit>
  void each(Visit visit) const {
    const Part part = part_of(extent_, part_);
    for (Part band = first_of(part); band.first_row < part.last_row;) {
      const Part next = band.last_row < part.last_row ? first_of({part.block, band.last_row, part.last_row})
                                                      : first_of(part_of(extent_, (part_ + threads_) % parts(extent_)));
      visit(band, next);
      band = band.last_row < part.last_row ? next : Part{part.block, part.last_row, part.last_row};
    }
  }

 private:
  Part first_of(const Part& part) const {
    const int64_t last = part.first_row + rows_;
    return {part.block, part.first_row, last < part.last_row ? last : part.last_row};
  }

  Extent extent_;
  int64_t part_, rows_;
  int threads_;
};

// Few parts (a batch of features is one) are cut by channels too.
inline int64_t channel_parts(const Extent& extent) {
  const int64_t wanted = (8 + parts(extent) - 1) / parts(extent);
  const int64_t most = (extent.channels + 7) / 8;
  return wanted < most ? wanted : most;
}

// Where cut number `cut` of so many starts: at a bundle's first channel.
inline int64_t channel_cut(const Extent& extent, int64_t cut, int64_t cuts) {
  return cut == cuts ? extent.channels : extent.channels * cut / cuts / BUNDLE * BUNDLE;
}

// Floats that a list's weights read, as Pixels otherwise.
struct Floats {
  float* data;
  int64_t block, row, channel, pixel;
};

template <class Lying>
int64_t place_in(const Lying& pixels, int64_t block, int64_t row, int64_t column) {
  return block * pixels.block + row * pixels.row + column * pixels.pixel;
}

inline Stored* at(const Pixels& pixels, int64_t block, int64_t row, int64_t column) {
  return static_cast<Stored*>(pixels.data) + place_in(pixels, block, row, column);
}

inline const float* at(const Floats& pixels, int64_t block, int64_t row, int64_t column) {
  return pixels.data + place_in(pixels, block, row, column);
}

// Floats from one pixel to the next: known to the compiler for strides of 1 and 2, so that the inner loops need no
// arithmetic for their places.
template <int STEP>
struct Every {
  static constexpr int64_t apart(const Floats&) { return STEP * LANES; }
};
struct Apart {
  static int64_t apart(const Floats& pixels) { return pixels.pixel; }
};

// Call function(how `pixels` lie).
template <class Function>
void with_spacing(const Floats& pixels, Function function) {
  if (pixels.pixel == LANES) return function(Every<1>{});
  if (pixels.pixel == 2 * LANES) return function(Every<2>{});
  function(Apart{});
}

// Call visit.template tile<ROWS, COLUMNS>(row, column) on tiles of about AREA pixels that cover the rows [first, last)
// of `width` columns.
template <int AREA, int COLUMNS, class Visit>
void cover_strip(int64_t first, int64_t last, int64_t column, Visit& visit) {
  constexpr int ROWS = rows_of(COLUMNS, AREA);
  int64_t row = first;
  for (; row + ROWS <= last; row += ROWS) visit.template tile<ROWS, COLUMNS>(row, column);
  for (; row < last; row++) visit.template tile<1, COLUMNS>(row, column);
}

inline int64_t strips(int64_t width, int widest) { return (width + widest - 1) / widest; }

// Rows of the highest tiles of so many pixels.
inline int64_t band_rows(int64_t width) {
  constexpr int WIDE = TILE < WIDEST ? TILE : WIDEST;
  return rows_of(static_cast<int>(width / strips(width, WIDE)), TILE);
}

template <int AREA, class Visit, int... WIDTHS>
void cover_strip_of(int64_t columns, int64_t first, int64_t last, int64_t column, Visit& visit,
                    std::integer_sequence<int, WIDTHS...>) {
  (void)((columns == WIDTHS + 1 && (cover_strip<AREA, WIDTHS + 1>(first, last, column, visit), true)) || ...);
}

template <int AREA = TILE, class Visit>
void cover(int64_t first, int64_t last, int64_t width, Visit visit) {
  constexpr int WIDE = AREA < WIDEST ? AREA : WIDEST;
  const int64_t count = strips(width, WIDE);
  for (int64_t strip = 0; strip < count; strip++) {
    const int64_t column = width * strip / count, next = width * (strip + 1) / count;
    cover_strip_of<AREA>(next - column, first, last, column, visit, std::make_integer_sequence<int, WIDE>{});
  }
}

}  // namespace SPARSECORE_VARIANT
