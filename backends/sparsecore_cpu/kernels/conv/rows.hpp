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

// Tasks for each thread at least, if there are so many channels: few enough that each has some work, and so many that
// all threads end at about the same time.
constexpr int TASKS_OF_THREAD = 12;

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
      accumulate<VECTORS>(from, params.pointers[channel], params.pointers[channel + 1], outputs);
      for (int v = 0; v < VECTORS; v++) {
        const Vector floored = outputs[v] < params.floor ? zeros() + params.floor : outputs[v];
        const Vector bounded = floored > params.ceiling ? zeros() + params.ceiling : floored;
        const Vector inside = load_unaligned(params.inside + position + v * LANES);
        store_unaligned(params.out + output + v * LANES, inside > zeros() ? bounded : zeros());
      }
    }
  }

  // The inner loop: adds value * pixels for the weights [first, last) to the outputs, which stay in registers. Where
  // there are few vectors, the weights take turns in several sums, so that an addition does not wait for the one
  // before.
  template <int VECTORS>
  inline __attribute__((always_inline)) void accumulate(const float* from, int32_t first, int32_t last,
                                                        Vector (&outputs)[VECTORS]) const {
    constexpr int CHAINS = VECTORS < 3 ? 4 : VECTORS < 5 ? 2 : 1;
    int32_t k = first;
    if constexpr (CHAINS > 1) {
      Vector sums[CHAINS][VECTORS];
      for (auto& chain : sums)
        for (auto& sum : chain) sum = zeros();
      for (; k + CHAINS <= last; k += CHAINS) {
#pragma GCC unroll 4
        for (int chain = 0; chain < CHAINS; chain++) add<VECTORS>(from, k + chain, sums[chain]);
      }
      for (const auto& chain : sums)
        for (int v = 0; v < VECTORS; v++) outputs[v] += chain[v];
    }
    for (; k < last; k++) add<VECTORS>(from, k, outputs);
  }

  template <int VECTORS>
  inline __attribute__((always_inline)) void add(const float* from, int32_t weight, Vector (&sums)[VECTORS]) const {
    const float* pixels = pin_register(from + params.offsets[weight]);
    const float value = params.values[weight];
#pragma GCC unroll 32
    for (int v = 0; v < VECTORS; v++) sums[v] += value * load_unaligned(pixels + v * LANES);
  }

  // The same for a number of vectors that is known at run time, from 1 to the length of the sequence.
  template <int... SIZES>
  void tile_of(int64_t vectors, int64_t position, std::integer_sequence<int, SIZES...>) const {
    (void)((vectors == SIZES + 1 && (tile<SIZES + 1>(position), true)) || ...);
  }
};

inline void convolve_rows(const RowConvolutionParams& params, int threads) {
  const int64_t vectors = (params.pixels + LANES - 1) / LANES, tiles = (vectors + ROW_TILE - 1) / ROW_TILE;
  const int64_t most = (params.channels + 3) / 4;
  const int64_t wanted = threads > 1 ? (TASKS_OF_THREAD * threads + tiles - 1) / tiles : 1;
  const int64_t ranges = wanted < most ? wanted : most;  // of channels
  parallel_for(tiles * ranges, threads, [&](int64_t task) {
    const int64_t tile = task / ranges, range = task % ranges;
    const int64_t first = vectors * tile / tiles, last = vectors * (tile + 1) / tiles;
    RowTiles{params, params.channels * range / ranges, params.channels * (range + 1) / ranges}.tile_of(
        last - first, first * LANES, std::make_integer_sequence<int, ROW_TILE>{});
  });
}

}  // namespace SPARSECORE_VARIANT
