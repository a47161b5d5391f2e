// Linear layers whose active weights are whole blocks of 16 outputs by 32 inputs, as products of matrix tiles: a block
// is one factor, whatever is around it. Inputs, weights and gradients are rounded to bfloat16, sums and results are in
// single precision.
//
// Sums of several tiles stay in registers through all blocks of a row or a column of blocks, which is one task.
#pragma once

#include <utility>

#include "linear/block_packing.hpp"
#include "linear/blocks.hpp"

namespace SPARSECORE_VARIANT {

// The registers: most of them have sums.
constexpr int MOST_SUMS = 6, LEFT = 6, RIGHT = 7;

template <class Function, int... COUNTS>
void with_constant(int64_t number, Function function, std::integer_sequence<int, COUNTS...>) {
  (void)((number == COUNTS + 1 && (function(std::make_integer_sequence<int, COUNTS + 1>{}), true)) || ...);
}

// Cuts `count` into about equal parts of at most MOST, and calls function(first, sequence of the part's length).
template <int MOST, class Function>
void for_each_part(int64_t count, Function function) {
  const int64_t parts = (count + MOST - 1) / MOST;
  for (int64_t part = 0; part < parts; part++) {
    const int64_t first = count * part / parts, last = count * (part + 1) / parts;
    with_constant(
        last - first, [&](auto numbers) { function(first, numbers); }, std::make_integer_sequence<int, MOST>{});
  }
}

// Sums of 16 features by 16 members or fewer: where they start, null for zero, and where they are written.
struct SumsInMemory {
  const float* start;
  float* to;
  int64_t stride;  // between features, in floats
  int64_t members;

  SumsInMemory from(int64_t feature, int64_t member) const {
    const int64_t skipped = feature * stride + member;
    return {start ? start + skipped : nullptr, to + skipped, stride, members - member};
  }

  int64_t row_bytes() const { return members * static_cast<int64_t>(sizeof(float)); }
  int64_t stride_bytes() const { return stride * static_cast<int64_t>(sizeof(float)); }
};

template <class Tiles, int TILE>
void load_sums(const SumsInMemory& sums) {
  if (!sums.start) return Tiles::template zero<TILE>();
  if (sums.members >= SIDE) return Tiles::template load<TILE>(sums.start, sums.stride_bytes());
  alignas(64) float whole[SIDE][SIDE] = {};
  for (int row = 0; row < SIDE; row++)
    __builtin_memcpy(whole[row], sums.start + row * sums.stride, static_cast<size_t>(sums.row_bytes()));
  Tiles::template load<TILE>(whole, TILE_STRIDE);
}

template <class Tiles, int TILE>
void store_sums(const SumsInMemory& sums) {
  if (sums.members >= SIDE) return Tiles::template store<TILE>(sums.to, sums.stride_bytes());
  alignas(64) float whole[SIDE][SIDE];
  Tiles::template store<TILE>(whole, TILE_STRIDE);
  for (int row = 0; row < SIDE; row++)
    __builtin_memcpy(sums.to + row * sums.stride, whole[row], static_cast<size_t>(sums.row_bytes()));
}

// The sums of the features from `feature` on and of a range of members.
inline SumsInMemory sums_of(const float* start, float* to, int64_t feature, const Members& members) {
  return SumsInMemory{start, to, members.floats, members.last}.from(feature, members.first);
}

// Adds the biases of 16 outputs to them, for those of the members that are among the `count` members of the batch.
inline void add_biases(const float* biases, const Members& members, int64_t count, float* out) {
  for (int output = 0; output < BLOCK_OUTPUTS; output++)
    for (int64_t member = members.first; member < members.last && member < count; member += LANES) {
      const int64_t left = count - member;
      float* const to = out + output * members.floats + member;
      store(to, load(to) + first_lanes(zeros() + biases[output], static_cast<int>(left < LANES ? left : LANES)));
    }
}

// Adds the sums of 16 outputs and of their squares over some members to `sums`, (outputs, 2).
inline void add_moments_of(const float* out, const Members& members, double* sums) {
  for (int output = 0; output < BLOCK_OUTPUTS; output++) {
    Vector total = zeros(), squares = zeros();
    for (int64_t member = members.first; member < members.last; member += LANES) {
      const Vector one = load(out + output * members.floats + member);
      total += one, squares += one * one;
    }
    sums[2 * output] += sum(total), sums[2 * output + 1] += sum(squares);
  }
}

// Adds the products of a row's blocks with the tiles of `right`, TILE members each of which has its sums.
template <class Tiles, int... TILE>
void multiply_row(const BlockList& blocks, int64_t row, const float* left, const float* right, const Members& members,
                  const SumsInMemory& sums, std::integer_sequence<int, TILE...>) {
  (load_sums<Tiles, TILE>(sums.from(0, TILE * SIDE)), ...);
  for (int64_t block = blocks.row_starts[row]; block < blocks.row_starts[row + 1]; block++, left += TILE_FLOATS) {
    const float* column = right + blocks.columns[block] * members.tiles() * TILE_FLOATS;
    Tiles::template load<LEFT>(left, TILE_STRIDE);
    ((Tiles::template load<RIGHT>(column + TILE * TILE_FLOATS, TILE_STRIDE),
      Tiles::template add_products<TILE, LEFT, RIGHT>()),
     ...);
  }
  (store_sums<Tiles, TILE>(sums.from(0, TILE * SIDE)), ...);
}

template <class Tiles>
void block_forward(const BlockParams& params) {
  const BlockList& blocks = params.blocks;
  const MemberRanges ranges(params.vectors, blocks.inputs(), params.cache_bytes);
  ranges.for_each([&](const Members& members) {
    const int64_t piece = members.tiles() * TILE_FLOATS;
    const float* const right = packed_pieces(
        panel_scratch().shared, blocks.column_count, piece, params.threads, [&](int64_t column, float* to) {
          pack_feature_pairs<SIDE>(params.x + column * BLOCK_INPUTS * members.floats, members, to);
        });
    parallel_for(blocks.row_count, params.threads, [&](int64_t row) {
      float* const left = panel_scratch().read.request(blocks.blocks_of(row) * TILE_FLOATS);
      for (int64_t i = 0; i < blocks.blocks_of(row); i++)
        pack_weights(params.values + blocks.first_weight(row, blocks.row_starts[row] + i), blocks.weights_of(row),
                     left + i * TILE_FLOATS);
      const SumsInMemory sums = sums_of(params.add, params.out, row * BLOCK_OUTPUTS, members);
      const ConfiguredTiles<Tiles> tiles{TileConfiguration{}};
      for_each_part<MOST_SUMS>(members.tiles(), [&](int64_t first, auto numbers) {
        multiply_row<Tiles>(blocks, row, left, right + first * TILE_FLOATS, members, sums.from(0, first * SIDE),
                            numbers);
      });
      float* const out = params.out + row * BLOCK_OUTPUTS * members.floats;
      const int64_t batch = members.floats - LANES + params.last_lanes;
      if (params.bias) add_biases(params.bias + row * BLOCK_OUTPUTS, members, batch, out);
      if (params.sums) add_moments_of(out, members, params.sums + 2 * row * BLOCK_OUTPUTS);
    });
  });
}

// Adds the products of a column's transposed blocks with the gradients of their outputs. There are two tiles of sums
// for each 16 members: those of the first 16 inputs, and those of the others.
template <class Tiles, int... TILE>
void multiply_column(const BlockList& blocks, int64_t column, const float* left, const float* right,
                     const Members& members, const SumsInMemory& sums, std::integer_sequence<int, TILE...>) {
  constexpr int PIECE = TILE_FLOATS / 2, OTHERS = 5;
  (load_sums<Tiles, 2 * TILE>(sums.from(0, TILE * SIDE)), ...);
  (load_sums<Tiles, 2 * TILE + 1>(sums.from(SIDE, TILE * SIDE)), ...);
  for (int64_t i = blocks.column_starts[column]; i < blocks.column_starts[column + 1]; i++, left += TILE_FLOATS) {
    const float* row = right + blocks.rows[i] * members.tiles() * PIECE;
    Tiles::template load<LEFT>(left, TILE_STRIDE);
    Tiles::template load<OTHERS>(left + SIDE / 2, TILE_STRIDE);
    ((Tiles::template load<RIGHT>(row + TILE * PIECE, TILE_STRIDE),
      Tiles::template add_products<2 * TILE, LEFT, RIGHT>(),
      Tiles::template add_products<2 * TILE + 1, OTHERS, RIGHT>()),
     ...);
  }
  (store_sums<Tiles, 2 * TILE>(sums.from(0, TILE * SIDE)), ...);
  (store_sums<Tiles, 2 * TILE + 1>(sums.from(SIDE, TILE * SIDE)), ...);
}

// Half of each tile is used, as a block has 16 outputs to be summed over.
template <class Tiles>
void block_input_gradient(const BlockGradientsParams& params) {
  constexpr int PAIRS = BLOCK_OUTPUTS / 2, OTHERS = 5;
  const BlockList& blocks = params.blocks;
  TileConfiguration shapes;
  shapes.set(LEFT, SIDE, PAIRS), shapes.set(OTHERS, SIDE, PAIRS), shapes.set(RIGHT, PAIRS, SIDE);
  const MemberRanges ranges(params.vectors, blocks.outputs(), params.cache_bytes);
  ranges.for_each([&](const Members& members) {
    const int64_t piece = members.tiles() * TILE_FLOATS / 2;
    const float* const right =
        packed_pieces(panel_scratch().shared, blocks.row_count, piece, params.threads, [&](int64_t row, float* to) {
          pack_feature_pairs<PAIRS>(params.gradient + row * BLOCK_OUTPUTS * members.floats, members, to);
        });
    parallel_for(blocks.column_count, params.threads, [&](int64_t column) {
      const int64_t start = blocks.column_starts[column], count = blocks.column_starts[column + 1] - start;
      float* const left = panel_scratch().read.request(count * TILE_FLOATS);
      for (int64_t i = 0; i < count; i++) {
        const int64_t row = blocks.rows[start + i];
        pack_transposed_weights(params.values + blocks.first_weight(row, blocks.numbers[start + i]),
                                blocks.weights_of(row), left + i * TILE_FLOATS);
      }
      const SumsInMemory sums = sums_of(params.add, params.inputs, column * BLOCK_INPUTS, members);
      const ConfiguredTiles<Tiles> tiles(shapes);
      for_each_part<2>(members.tiles(), [&](int64_t first, auto numbers) {
        multiply_column<Tiles>(blocks, column, left, right + first * TILE_FLOATS / 2, members,
                               sums.from(0, first * SIDE), numbers);
      });
    });
  });
}

// Computes the gradients of some blocks of a row, two tiles each, from one range of members.
template <class Tiles, int... TILE>
void multiply_members(const BlockList& blocks, int64_t first_block, const float* left, const float* right,
                      const Members& members, const SumsInMemory& sums, std::integer_sequence<int, TILE...>) {
  const auto address = [&](int tile) {
    return right + (2 * blocks.columns[first_block + tile / 2] + tile % 2) * members.steps() * TILE_FLOATS;
  };
  const float* const rights[] = {address(TILE)...};
  (load_sums<Tiles, TILE>(sums.from(0, TILE * SIDE)), ...);
  for (int64_t step = 0; step < members.steps(); step++) {
    Tiles::template load<LEFT>(left + step * TILE_FLOATS, TILE_STRIDE);
    ((Tiles::template load<RIGHT>(rights[TILE] + step * TILE_FLOATS, TILE_STRIDE),
      Tiles::template add_products<TILE, LEFT, RIGHT>()),
     ...);
  }
  (store_sums<Tiles, TILE>(sums.from(0, TILE * SIDE)), ...);
}

template <class Tiles>
void block_weight_gradient(const BlockGradientsParams& params) {
  constexpr int TILES_PER_BLOCK = BLOCK_INPUTS / SIDE;
  const BlockList& blocks = params.blocks;
  const MemberRanges ranges(params.vectors, blocks.inputs(), params.cache_bytes);
  ranges.for_each([&](const Members& members) {
    const int64_t piece = members.steps() * TILE_FLOATS;
    const float* const right = packed_pieces(
        panel_scratch().shared, blocks.inputs() / SIDE, piece, params.threads, [&](int64_t number, float* to) {
          pack_transposed_members(params.x + number * SIDE * members.floats, members, to);
        });
    parallel_for(blocks.row_count, params.threads, [&](int64_t row) {
      float* const left = panel_scratch().read.request(piece);
      pack_member_pairs(params.gradient + row * BLOCK_OUTPUTS * members.floats, members, left);
      // the weights of a row are a matrix of 16 outputs, in which the tiles lie side by side
      float* const weights = params.weights + blocks.first_weight(row, blocks.row_starts[row]);
      const int64_t length = blocks.weights_of(row);
      const SumsInMemory sums{members.first ? weights : nullptr, weights, length, length};
      const ConfiguredTiles<Tiles> tiles{TileConfiguration{}};
      for_each_part<MOST_SUMS / TILES_PER_BLOCK>(blocks.blocks_of(row), [&](int64_t first, auto numbers) {
        constexpr auto tile_numbers = std::make_integer_sequence<int, TILES_PER_BLOCK* decltype(numbers)::size()>{};
        multiply_members<Tiles>(blocks, blocks.row_starts[row] + first, left, right, members,
                                sums.from(0, first * BLOCK_INPUTS), tile_numbers);
      });
    });
  });
}

template <class Tiles>
void block_gradients(const BlockGradientsParams& params) {
  if (params.inputs) block_input_gradient<Tiles>(params);
  if (params.weights) block_weight_gradient<Tiles>(params);
}

}  // namespace SPARSECORE_VARIANT
