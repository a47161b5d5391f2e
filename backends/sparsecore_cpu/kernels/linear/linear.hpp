// The interface between the Python bindings and the kernels of linear layers: a table of functions for each
// instruction set.
//
// Features are stored as (features, vectors, lanes): a vector holds one feature of `lanes` members of the batch.
#pragma once

#include <cstdint>

#include "linear/blocks.hpp"

namespace sparsecore {

// Positions are counted from the last multiple of this on, so that 16 bits suffice.
constexpr int64_t SEGMENT = 1 << 16;

// The positions of the active weights of a matrix, row by row: weight k is in the column columns[k] of its segment. The
// columns are cut into tiles of `tile` columns, a power of two up to SEGMENT: the weights of row r in tile t are those
// from starts[t * rows + r] to starts[(t + 1) * rows + r].
struct TiledRows {
  const uint16_t* columns;
  const uint32_t* starts;
  int64_t rows, column_count, tile;
  bool paired = false;  // whether all weights are pairs, in an even column and the next one

  int64_t tiles() const { return (column_count + tile - 1) / tile; }
  int64_t first_column(int64_t number) const { return number * tile; }
  int64_t last_column(int64_t number) const {
    return (number + 1) * tile < column_count ? (number + 1) * tile : column_count;
  }

  // The first column of a tile's segment.
  int64_t segment_of(int64_t number) const { return number * tile / SEGMENT * SEGMENT; }

  int64_t count() const { return starts[(tiles() + 1) * rows - 1]; }
};

// out = add + bias + weights * x for each member of the batch. What is null of `add`, which is laid out as `out`, and
// `bias`, which has an entry for each output, is left out.
struct LinearParams {
  TiledRows by_output;
  const float *values, *x, *add, *bias;
  float* out;
  int64_t vectors, last_lanes;  // `last_lanes` are in use in the last vector; the others are zero
  double* sums;                 // (outputs, 2): those of the outputs and of their squares are added to it; may be null
  int64_t cache_bytes;          // of a core's own cache, in which outputs and their weights are to stay
  int threads;
};

// The gradients of a linear layer, of which one may be left out (null): that of weight k is `weights[k]`, that of the
// inputs is `inputs`, plus `add` if that is not null. Weights are numbered in the order of `by_output`; `by_input` has
// the same ones with rows and columns exchanged. `ranges` is `by_output` with other tiles: the gradients of the inputs
// of a tile are one task. Without `weights`, `x` is not read; without `inputs`, neither are `by_input` and `ranges`.
struct LinearGradientsParams {
  TiledRows by_output, by_input, ranges;
  const float *values, *x, *gradient, *add;
  float *weights, *inputs;
  int64_t vectors;
  int64_t cache_bytes;  // as of LinearParams
  int threads;
};

// The kernels for one instruction set. All are thread-safe and keep no state. Results do not depend on the number of
// threads.
struct LinearTable {
  const char* name;
  int lanes;
  int most_vectors;  // of a batch that are computed at a time

  void (*forward)(const LinearParams& params);
  void (*gradients)(const LinearGradientsParams& params);
};

// The kernels for one instruction set, and those that round what they multiply to bfloat16: any weights, and whole
// blocks of them. The latter two are null where this processor has no instructions for such products.
struct LinearTables {
  const LinearTable *float32, *bfloat16;
  const BlockTable* blocks;
};

// The kernels for the instruction set of this name or, where it is empty, for the best one of this processor. Null
// where this processor has none of this name.
LinearTables find_linear_kernels(const char* name);

}  // namespace sparsecore
