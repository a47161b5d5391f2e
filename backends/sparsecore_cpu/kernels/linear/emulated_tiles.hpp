// Matrix tiles in plain C++, which compute what Intel's manual documents for the instructions of AMX. For tests: the
// kernels of blocks run with them on every processor.
#pragma once

#include <cmath>
#include <limits>
#include <stdexcept>

#include "linear/matrix_tiles.hpp"

namespace SPARSECORE_VARIANT {

struct EmulatedTile {
  uint32_t words[SIDE][SIDE] = {};
};

struct EmulatedState {
  TileConfiguration shapes;
  bool is_configured = false;
  EmulatedTile tiles[TILE_COUNT];
};

class EmulatedTiles {
 public:
  static void configure(const TileConfiguration& configuration) {
    state_ = {};
    state_.shapes = configuration, state_.is_configured = true;
  }

  static void release() { state_.is_configured = false; }

  template <int TILE>
  static void zero() {
    zero(TILE);
  }

  template <int TILE>
  static void load(const void* from, int64_t stride) {
    load(TILE, from, stride);
  }

  template <int TILE>
  static void store(void* to, int64_t stride) {
    store(TILE, to, stride);
  }

  template <int SUM, int LEFT, int RIGHT>
  static void add_products() {
    add_products(SUM, LEFT, RIGHT);
  }

 private:
  static constexpr uint32_t UPPER_HALF = 0xffff0000u;

  static void zero(int tile) {
    require(state_.is_configured);
    state_.tiles[tile] = {};
  }

  // Rows and columns beyond the tile's shape become zero.
  static void load(int tile, const void* from, int64_t stride) {
    zero(tile);
    for (int row = 0; row < rows(tile); row++)
      __builtin_memcpy(state_.tiles[tile].words[row], static_cast<const char*>(from) + row * stride, row_bytes(tile));
  }

  static void store(int tile, void* to, int64_t stride) {
    require(state_.is_configured);
    for (int row = 0; row < rows(tile); row++)
      __builtin_memcpy(static_cast<char*>(to) + row * stride, state_.tiles[tile].words[row], row_bytes(tile));
  }

  // TDPBF16PS. For each row the products of the pairs' lower halves and those of the upper halves are summed from zero
  // on, one after another; both sums are added, and then that to the tile. Each operation rounds to the nearest number,
  // ties to even, takes subnormal numbers as zeros, and makes zeros of them.
  static __attribute__((noinline)) void add_products(int sum, int left, int right) {
    require(state_.is_configured && rows(sum) == rows(left) && row_bytes(sum) == row_bytes(right) &&
            row_bytes(left) == rows(right) * static_cast<int>(sizeof(uint32_t)));
    const EmulatedTile &lefts = state_.tiles[left], &rights = state_.tiles[right];
    const int pairs = rows(right), columns = row_bytes(sum) / static_cast<int>(sizeof(float));
    for (int row = 0; row < rows(sum); row++) {
      float lower[SIDE] = {}, upper[SIDE] = {};
      for (int pair = 0; pair < pairs; pair++)
        for (int column = 0; column < columns; column++) {
          const uint32_t one = lefts.words[row][pair], other = rights.words[pair][column];
          lower[column] = add_product(lower[column], number_of(one << 16), number_of(other << 16));
          upper[column] = add_product(upper[column], number_of(one & UPPER_HALF), number_of(other & UPPER_HALF));
        }
      for (int column = 0; column < columns; column++) {
        uint32_t& bits = state_.tiles[sum].words[row][column];
        const float total = flushed(number_of(bits) + flushed(lower[column] + upper[column]));
        __builtin_memcpy(&bits, &total, sizeof total);
      }
    }
  }

  static int rows(int tile) { return state_.shapes.rows[tile]; }
  static int row_bytes(int tile) { return state_.shapes.row_bytes[tile]; }

  // The processor raises #UD where this throws.
  static void require(bool condition) {
    if (!condition) throw std::logic_error("the tiles are not configured for this instruction");
  }

  static float flushed(float number) {
    return std::fabs(number) < std::numeric_limits<float>::min() ? std::copysign(0.0f, number) : number;
  }

  static float number_of(uint32_t bits) {
    float number;
    __builtin_memcpy(&number, &bits, sizeof number);
    return flushed(number);
  }

  // A fused multiply-add. The product of two bfloat16 numbers is exact in double precision, and that has more than
  // twice as many digits as a float, so that rounding the sum to it first changes no result.
  static float add_product(float sum, float one, float other) {
    return flushed(static_cast<float>(static_cast<double>(one) * other + sum));
  }

  static inline thread_local EmulatedState state_;
};

}  // namespace SPARSECORE_VARIANT
