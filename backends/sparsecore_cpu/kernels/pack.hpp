// Other programs' tensors into the kernels' layout and back: squares of LANES images by LANES pixels or channels, turned
// over in registers.
#pragma once

#include <utility>

#include "prepared.hpp"

namespace SPARSECORE_VARIANT {

using sparsecore::Strided;

struct Square {
  Vector rows[LANES];

  Vector& operator[](int row) { return rows[row]; }
};

// Of two rows that are HALF apart: the first gets the second's entries where its number has not the bit HALF, and so on.
template <int HALF, int... LANE>
inline void swap_halves(Vector& first, Vector& second, std::integer_sequence<int, LANE...>) {
  const Vector low = __builtin_shufflevector(first, second, (LANE & HALF ? LANE - HALF + LANES : LANE)...);
  second = __builtin_shufflevector(first, second, (LANE & HALF ? LANE + LANES : LANE + HALF)...);
  first = low;
}

template <int HALF>
inline void turn_over(Square& rows) {
  for (int row = 0; row < LANES; row++)
    if (!(row & HALF)) swap_halves<HALF>(rows[row], rows[row | HALF], std::make_integer_sequence<int, LANES>{});
  if constexpr (HALF > 1) turn_over<HALF / 2>(rows);
}

// The places of one row of pixels of one block: along channels where these lie together, else along columns.
struct Runs {
  int64_t count, length;          // of runs, and of places in one
  int64_t from_run, from_place;   // strides in the other program's tensor
  int64_t to_run, to_place;       // and here

  Runs(const Strided& other, const Pixels& own, const Extent& extent) {
    const bool along_channels = other.channel == 1 && extent.channels > 1;
    count = along_channels ? extent.width : extent.channels, length = along_channels ? extent.channels : extent.width;
    from_run = along_channels ? other.column : other.channel, from_place = along_channels ? other.channel : other.column;
    to_run = along_channels ? own.pixel : own.channel, to_place = along_channels ? own.channel : own.pixel;
  }
};

// Call visit(other program's place, own place, live lanes, runs) for each row of each block.
template <class Visit>
void by_rows(const Strided& other, const Pixels& own, const Extent& extent, int threads, Visit visit) {
  in_parallel(extent.blocks * extent.height, threads, [&](int64_t task) {
    const int64_t block = task / extent.height, row = task % extent.height;
    visit(other.data + block * LANES * other.image + row * other.row, at(own, block, row, 0),
          live_lanes(extent, block, 0), Runs(other, own, extent));
  });
}

inline void pack(Strided source, Pixels out, Extent extent, int threads) {
  by_rows(source, out, extent, threads, [&](const float* from, Stored* to, int live, const Runs& runs) {
    for (int64_t run = 0; run < runs.count; run++) {
      const float* start = from + run * runs.from_run;
      Stored* end = to + run * runs.to_run;
      int64_t place = 0;
      if (live == LANES && runs.from_place == 1)
        for (; place + LANES <= runs.length; place += LANES) {
          Square square;
          for (int lane = 0; lane < LANES; lane++) square[lane] = load_anywhere(start + lane * source.image + place);
          turn_over<LANES / 2>(square);
          for (int i = 0; i < LANES; i++) store(end + (place + i) * runs.to_place, square[i]);
        }
      for (; place < runs.length; place++) {
        Vector pixel = zeros();
        for (int lane = 0; lane < live; lane++) pixel[lane] = start[lane * source.image + place * runs.from_place];
        store(end + place * runs.to_place, pixel);
      }
    }
  });
}

inline void unpack(Pixels x, Strided target, Extent extent, int threads) {
  by_rows(target, x, extent, threads, [&](float* to, const Stored* from, int live, const Runs& runs) {
    for (int64_t run = 0; run < runs.count; run++) {
      float* end = to + run * runs.from_run;
      const Stored* start = from + run * runs.to_run;
      int64_t place = 0;
      if (live == LANES && runs.from_place == 1)
        for (; place + LANES <= runs.length; place += LANES) {
          Square square;
          for (int i = 0; i < LANES; i++) square[i] = load(start + (place + i) * runs.to_place);
          turn_over<LANES / 2>(square);
          for (int lane = 0; lane < LANES; lane++) store_anywhere(end + lane * target.image + place, square[lane]);
        }
      for (; place < runs.length; place++) {
        const Vector pixel = load(start + place * runs.to_place);
        for (int lane = 0; lane < live; lane++) end[lane * target.image + place * runs.from_place] = pixel[lane];
      }
    }
  });
}

}  // namespace SPARSECORE_VARIANT
