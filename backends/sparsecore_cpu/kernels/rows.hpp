// Convolution of one image whose pixels lie row by row, each channel in one run: vectors go along the rows.
#pragma once

#include <utility>

#include "kernels.hpp"
#include "pool.hpp"
#include "vector.hpp"

namespace SPARSECORE_VARIANT {

using sparsecore::Rows;
using sparsecore::in_parallel;

// So many vectors of outputs make up for reading a weight, and leave what they read of all channels in the cache.
constexpr int ROW_TILE = 11;

struct RowTile {
  const Rows& rows;
  int64_t first_channel, last_channel;

  template <int VECTORS>
  void cover(int64_t place) const {
    const float* from = rows.x + place;
    for (int64_t channel = first_channel; channel < last_channel; channel++) {
      const int64_t there = channel * rows.channel + place;
      Vector outputs[VECTORS];
      for (int v = 0; v < VECTORS; v++)
        outputs[v] = rows.bias[channel] + (rows.add ? load_anywhere(rows.add + there + v * LANES) : zeros());
      for (int32_t k = rows.pointers[channel]; k < rows.pointers[channel + 1]; k++) {
        const float* input = settled(from + rows.offsets[k]);
        const float weight = rows.values[k];
#pragma GCC unroll 32
        for (int v = 0; v < VECTORS; v++) outputs[v] += weight * load_anywhere(input + v * LANES);
      }
      for (int v = 0; v < VECTORS; v++) {
        const Vector output = outputs[v] < rows.floor ? zeros() + rows.floor : outputs[v];
        const Vector inside = load_anywhere(rows.inside + place + v * LANES);
        store_anywhere(rows.out + there + v * LANES, inside > zeros() ? output : zeros());
      }
    }
  }

  template <int... SIZES>
  void cover_of(int64_t vectors, int64_t place, std::integer_sequence<int, SIZES...>) const {
    (void)((vectors == SIZES + 1 && (cover<SIZES + 1>(place), true)) || ...);
  }
};

inline void convolve_rows(const Rows& rows, int threads) {
  const int64_t vectors = (rows.pixels + LANES - 1) / LANES, tiles = (vectors + ROW_TILE - 1) / ROW_TILE;
  const int64_t most = (rows.channels + 3) / 4, wanted = threads > 1 ? (4 * threads + tiles - 1) / tiles : 1;
  const int64_t cuts = wanted < most ? wanted : most;
  in_parallel(tiles * cuts, threads, [&](int64_t task) {
    const int64_t tile = task / cuts, cut = task % cuts;
    const int64_t first = vectors * tile / tiles, last = vectors * (tile + 1) / tiles;
    RowTile{rows, rows.channels * cut / cuts, rows.channels * (cut + 1) / cuts}.cover_of(
        last - first, first * LANES, std::make_integer_sequence<int, ROW_TILE>{});
  });
}

}  // namespace SPARSECORE_VARIANT
