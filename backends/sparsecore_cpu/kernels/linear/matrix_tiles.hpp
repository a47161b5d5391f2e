// Matrix tiles: the registers of AMX, each of up to 16 rows of 64 bytes, as the kernels of blocks use them.
//
// The kernels are templates over a type with these static functions, of which there are two: AmxTiles executes the
// instructions, EmulatedTiles computes what they are documented to do. Strides are in bytes; a tile's number is a
// constant. Tiles belong to a thread.
//
//   configure(configuration)      sets the shapes of all tiles, and their content to zero
//   release()                     ends that
//   zero<TILE>()                  sets a tile to zero
//   load<TILE>(from, stride)      reads the rows of a tile
//   store<TILE>(to, stride)       writes the rows of a tile
//   add_products<SUM, LEFT, RIGHT>()
//                                 adds left * right to a tile of floats. A row of `left` has pairs of bfloat16 numbers;
//                                 row k of `right` has, for each column of the sum, the pair that those in column k of
//                                 `left` are multiplied by. The number with the lower address is in the lower half.
#pragma once

#include <cstdint>

#include "simd/vector.hpp"

namespace SPARSECORE_VARIANT {

// The rows of a tile, and the floats or pairs of bfloat16 numbers of each row.
constexpr int SIDE = 16;
constexpr int TILE_FLOATS = SIDE * SIDE, TILE_COUNT = 8;
constexpr int64_t TILE_STRIDE = SIDE * sizeof(float);

// The shapes of all tiles, as the instruction LDTILECFG reads them.
struct alignas(64) TileConfiguration {
  uint8_t palette = 1, start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  // All tiles have 16 rows of 64 bytes.
  TileConfiguration() {
    for (int tile = 0; tile < TILE_COUNT; tile++) set(tile, SIDE, SIDE);
  }

  // The shape of a tile: its rows, and the floats or pairs of each.
  void set(int tile, int row_count, int columns) {
    rows[tile] = static_cast<uint8_t>(row_count);
    row_bytes[tile] = static_cast<uint16_t>(columns * sizeof(float));
  }
};
static_assert(sizeof(TileConfiguration) == 64, "as LDTILECFG reads it");

// Tiles of these shapes, from here to the end of the scope. Tiles that the caller of a function has configured are lost
// by the call: the ABI says that no function has to preserve them.
template <class Tiles>
class ConfiguredTiles {
 public:
  explicit ConfiguredTiles(const TileConfiguration& configuration) { Tiles::configure(configuration); }
  ~ConfiguredTiles() { Tiles::release(); }
  ConfiguredTiles(const ConfiguredTiles&) = delete;
  ConfiguredTiles& operator=(const ConfiguredTiles&) = delete;
};

// A whole number from -128 to 128 as bfloat16.
inline uint32_t whole_as_bfloat16(int number) {
  const float single = static_cast<float>(number);
  uint32_t bits;
  __builtin_memcpy(&bits, &single, sizeof bits);
  return bits >> 16;
}

// Whether the tiles compute start + left * right for matrices of small whole numbers, with so many pairs in a row of
// the left one.
template <class Tiles, int PAIRS>
bool multiply_whole_numbers() {
  const auto start = [](int row, int column) { return 3 * row - 5 * column; };
  const auto left = [](int row, int k) { return (7 * row + 3 * k) % 17 - 8; };
  const auto right = [](int k, int column) { return (5 * k + 11 * column) % 19 - 9; };
  alignas(64) uint32_t lefts[SIDE][SIDE] = {}, rights[SIDE][SIDE] = {};
  alignas(64) float sums[SIDE][SIDE];
  for (int row = 0; row < SIDE; row++)
    for (int column = 0; column < SIDE; column++) sums[row][column] = static_cast<float>(start(row, column));
  for (int pair = 0; pair < PAIRS; pair++)
    for (int other = 0; other < SIDE; other++) {
      lefts[other][pair] = whole_as_bfloat16(left(other, 2 * pair)) | whole_as_bfloat16(left(other, 2 * pair + 1))
                                                                          << 16;
      rights[pair][other] = whole_as_bfloat16(right(2 * pair, other)) | whole_as_bfloat16(right(2 * pair + 1, other))
                                                                            << 16;
    }
  TileConfiguration shapes;
  shapes.set(1, SIDE, PAIRS), shapes.set(2, PAIRS, SIDE);
  {
    const ConfiguredTiles<Tiles> tiles(shapes);
    Tiles::template load<0>(sums, TILE_STRIDE);
    Tiles::template load<1>(lefts, TILE_STRIDE);
    Tiles::template load<2>(rights, TILE_STRIDE);
    Tiles::template add_products<0, 1, 2>();
    Tiles::template store<0>(sums, TILE_STRIDE);
  }
  for (int row = 0; row < SIDE; row++)
    for (int column = 0; column < SIDE; column++) {
      int expected = start(row, column);
      for (int k = 0; k < 2 * PAIRS; k++) expected += left(row, k) * right(k, column);
      if (sums[row][column] != static_cast<float>(expected)) return false;
    }
  return true;
}

// Whether the tiles multiply as the kernels use them.
template <class Tiles>
bool multiply_correctly() {
  return multiply_whole_numbers<Tiles, SIDE>() && multiply_whole_numbers<Tiles, SIDE / 2>();
}

}  // namespace SPARSECORE_VARIANT
