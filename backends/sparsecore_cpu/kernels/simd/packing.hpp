// Conversion of other programs' images to the kernels' layout and back. Squares of LANES images by LANES pixels or
// channels are transposed in registers.
#pragma once

#include <utility>

#include "simd/tiles.hpp"

namespace SPARSECORE_VARIANT {

using sparsecore::ImageView;

struct Square {
  Vector rows[LANES];

  Vector& operator[](int row) { return rows[row]; }
};

// Exchanges the entries of two rows that are HALF apart: the first row gets the second's entries into the lanes that
// have the bit HALF set, from HALF lanes before; the second row gets the first's into the others.
template <int HALF, int... LANE>
inline void exchange_halves(Vector& first, Vector& second, std::integer_sequence<int, LANE...>) {
  const Vector low = __builtin_shufflevector(first, second, (LANE & HALF ? LANE - HALF + LANES : LANE)...);
  second = __builtin_shufflevector(first, second, (LANE & HALF ? LANE + LANES : LANE + HALF)...);
  first = low;
}

template <int HALF = LANES / 2>
inline void transpose(Square& rows) {
  for (int row = 0; row < LANES; row++)
    if (!(row & HALF)) exchange_halves<HALF>(rows[row], rows[row | HALF], std::make_integer_sequence<int, LANES>{});
  if constexpr (HALF > 1) transpose<HALF / 2>(rows);
}

// One row of pixels of one block, as runs of values that are close to each other in the other program's images: along
// the channels where these are contiguous, else along the columns.
struct Runs {
  int64_t count, length;                         // of runs, and of values in each
  int64_t image_run_stride, image_value_stride;  // in the other program's images
  int64_t own_run_stride, own_value_stride;      // in the activation

  Runs(const ImageView& images, const ActivationView& own, const Extent& extent) {
    const bool along_channels = images.channel_stride == 1 && extent.channels > 1;
    count = along_channels ? extent.width : extent.channels;
    length = along_channels ? extent.channels : extent.width;
    image_run_stride = along_channels ? images.column_stride : images.channel_stride;
    image_value_stride = along_channels ? images.channel_stride : images.column_stride;
    own_run_stride = along_channels ? own.pixel_stride : own.channel_stride;
    own_value_stride = along_channels ? own.channel_stride : own.pixel_stride;
  }
};

// Calls visit(address in the images, own address, lanes in use, runs) for each row of each block, on several threads.
template <class Visit>
void for_each_row(const ImageView& images, const ActivationView& own, const Extent& extent, int threads, Visit visit) {
  parallel_for(extent.blocks * extent.height, threads, [&](int64_t task) {
    const int64_t block = task / extent.height, row = task % extent.height;
    visit(images.data + block * LANES * images.image_stride + row * images.row_stride, at(own, block, row, 0),
          lanes_in_use(extent, block, 0), Runs(images, own, extent));
  });
}

inline void pack(ImageView images, ActivationView out, Extent extent, int threads) {
  for_each_row(images, out, extent, threads, [&](const float* from, Stored* to, int lanes, const Runs& runs) {
    for (int64_t run = 0; run < runs.count; run++) {
      const float* source = from + run * runs.image_run_stride;
      Stored* target = to + run * runs.own_run_stride;
      int64_t i = 0;
      if (lanes == LANES && runs.image_value_stride == 1)
        for (; i + LANES <= runs.length; i += LANES) {
          Square square;
          for (int lane = 0; lane < LANES; lane++)
            square[lane] = load_unaligned(source + lane * images.image_stride + i);
          transpose(square);
          for (int row = 0; row < LANES; row++) store(target + (i + row) * runs.own_value_stride, square[row]);
        }
      for (; i < runs.length; i++) {
        Vector pixel = zeros();
        for (int lane = 0; lane < lanes; lane++)
          pixel[lane] = source[lane * images.image_stride + i * runs.image_value_stride];
        store(target + i * runs.own_value_stride, pixel);
      }
    }
  });
}

inline void unpack(ActivationView x, ImageView images, Extent extent, int threads) {
  for_each_row(images, x, extent, threads, [&](float* to, const Stored* from, int lanes, const Runs& runs) {
    for (int64_t run = 0; run < runs.count; run++) {
      float* target = to + run * runs.image_run_stride;
      const Stored* source = from + run * runs.own_run_stride;
      int64_t i = 0;
      if (lanes == LANES && runs.image_value_stride == 1)
        for (; i + LANES <= runs.length; i += LANES) {
          Square square;
          for (int row = 0; row < LANES; row++) square[row] = load(source + (i + row) * runs.own_value_stride);
          transpose(square);
          for (int lane = 0; lane < LANES; lane++)
            store_unaligned(target + lane * images.image_stride + i, square[lane]);
        }
      for (; i < runs.length; i++) {
        const Vector pixel = load(source + i * runs.own_value_stride);
        for (int lane = 0; lane < lanes; lane++)
          target[lane * images.image_stride + i * runs.image_value_stride] = pixel[lane];
      }
    }
  });
}

}  // namespace SPARSECORE_VARIANT
