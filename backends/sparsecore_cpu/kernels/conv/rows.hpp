// Convolution of one image whose channels are contiguous: vectors go along the rows.
#pragma once

#include <utility>

#include "kernels.hpp"
#include "runtime/thread_pool.hpp"
#include "simd/vector.hpp"

namespace SPARSECORE_VARIANT {

using sparsecore::parallel_for;
using sparsecore::RowConvolutionParams;

// Vectors of outputs in a tile: enough to make up for loading a weight, and few enough that what they read of all
// channels stays in the cache.
constexpr int ROW_TILE = 11;

struct RowTiles {
  const RowConvolutionParams& params;
  int64_t first_channel, last_channel;

  // Computes the VECTORS vectors of outputs from `position` on.
  template <int VECTORS>
  void tile(int64_t position) const {
    const float* from = params.x + position;
    for (int64_t channel = first_channel; channel < last_channel; channel++) {
      const int64_t output = channel * params.channel_stride + position;
      Vector outputs[VECTORS];
      for (int v = 0; v < VECTORS; v++)
        outputs[v] = params.bias[channel] + (params.add ? load_unaligned(params.add + output + v * LANES) : zeros());
      for (int32_t k = params.pointers[channel]; k < params.pointers[channel + 1]; k++) {
        const float* pixels = pin_register(from + params.offsets[k]);
        const float value = params.values[k];
#pragma GCC unroll 32
        for (int v = 0; v < VECTORS; v++) outputs[v] += value * load_unaligned(pixels + v * LANES);
      }
      for (int v = 0; v < VECTORS; v++) {
        const Vector floored = outputs[v] < params.floor ? zeros() + params.floor : outputs[v];
        const Vector inside = load_unaligned(params.inside + position + v * LANES);
        store_unaligned(params.out + output + v * LANES, inside > zeros() ? floored : zeros());
      }
    }
  }

  // The same for a number of vectors that is known at run time, from 1 to the length of the sequence.
  template <int... SIZES>
  void tile_of(int64_t vectors, int64_t position, std::integer_sequence<int, SIZES...>) const {
    (void)((vectors == SIZES + 1 && (tile<SIZES + 1>(position), true)) || ...);
  }
};

inline void convolve_rows(const RowConvolutionParams& params, int threads) {
  const int64_t vectors = (params.pixels + LANES - 1) / LANES, tiles = (vectors + ROW_TILE - 1) / ROW_TILE;
  const int64_t most = (params.channels + 3) / 4, wanted = threads > 1 ? (4 * threads + tiles - 1) / tiles : 1;
  const int64_t ranges = wanted < most ? wanted : most;  // of channels
  parallel_for(tiles * ranges, threads, [&](int64_t task) {
    const int64_t tile = task / ranges, range = task % ranges;
    const int64_t first = vectors * tile / tiles, last = vectors * (tile + 1) / tiles;
    RowTiles{params, params.channels * range / ranges, params.channels * (range + 1) / ranges}.tile_of(
        last - first, first * LANES, std::make_integer_sequence<int, ROW_TILE>{});
  });
}

}  // namespace SPARSECORE_VARIANT
