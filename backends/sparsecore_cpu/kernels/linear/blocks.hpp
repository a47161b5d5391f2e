// The interface between the Python bindings and the kernels of linear layers whose active weights are whole blocks of
// 16 outputs by 32 inputs: a table of functions for each set of instructions that multiply matrices.
//
// Features are stored as those of linear.hpp. All that is multiplied is rounded to bfloat16; sums are in single
// precision.
#pragma once

#include <cstdint>

namespace sparsecore {

constexpr int BLOCK_OUTPUTS = 16, BLOCK_INPUTS = 32, BLOCK_WEIGHTS = BLOCK_OUTPUTS * BLOCK_INPUTS;

// The active blocks of a matrix, numbered row by row: those of 16 outputs, called a row, are the blocks from
// row_starts[row] to row_starts[row + 1], and block b reads the 32 inputs of column columns[b]. The blocks of a column
// are numbers[i] in row rows[i], for i from column_starts[column] to column_starts[column + 1].
struct BlockList {
  const uint32_t *row_starts, *columns, *column_starts, *rows, *numbers;
  int64_t row_count, column_count;

  int64_t inputs() const { return column_count * BLOCK_INPUTS; }
  int64_t outputs() const { return row_count * BLOCK_OUTPUTS; }

  // The number of blocks in a row, and of the weights of an output in it.
  int64_t blocks_of(int64_t row) const { return row_starts[row + 1] - row_starts[row]; }
  int64_t weights_of(int64_t row) const { return blocks_of(row) * BLOCK_INPUTS; }

  // The number of the first weight of a block, which is in this row. Weights are numbered output by output, so that
  // those of the next output of the block are weights_of(row) further on.
  int64_t first_weight(int64_t row, int64_t block) const {
    const int64_t first = row_starts[row];
    return first * BLOCK_WEIGHTS + (block - first) * BLOCK_INPUTS;
  }
};

// out = add + bias + weights * x for each member of the batch, as of LinearParams.
struct BlockParams {
  BlockList blocks;
  const float *values, *x, *add, *bias;
  float* out;
  int64_t vectors, last_lanes;
  double* sums;
  int64_t cache_bytes;  // of a core's own cache, in which the rounded inputs are to stay
  int threads;
};

// The gradients of a linear layer, as of LinearGradientsParams.
struct BlockGradientsParams {
  BlockList blocks;
  const float *values, *x, *gradient, *add;
  float *weights, *inputs;
  int64_t vectors;
  int64_t cache_bytes;
  int threads;
};

// The kernels for one set of instructions. All are thread-safe and keep no state. Results do not depend on the number
// of threads.
struct BlockTable {
  int lanes;

  // Whether the system lets this process use the instructions, and whether they compute a small product as they
  // should. Asks the system for permission.
  bool (*is_usable)();

  void (*forward)(const BlockParams& params);
  void (*gradients)(const BlockGradientsParams& params);
};

}  // namespace sparsecore
