// The interface between the Python bindings and the kernels for pooling and for changes of shape: a table of functions
// for each instruction set. Activations are laid out as kernels.hpp says.
#pragma once

#include "kernels.hpp"

namespace sparsecore {

// The rows and columns of the input that each row and column of the output is made of, [first, last). Neither first nor
// last descends. A window may be empty.
struct Windows {
  const int32_t *first_row, *last_row;
  const int32_t *first_column, *last_column;
};

// out = add + the sum over a window of x, times the factors of the output's row and column or, `by_input`, with each
// pixel times the factors of its own row and column. Without `add` (null) it is the sum; else `add` is laid out as
// `out`.
struct WindowSumParams {
  ActivationView x, out;
  const void* add;
  Windows windows;
  const float *row_factors, *column_factors;
  bool by_input;
  Extent extent;  // of the outputs
  int threads;
};

// Pixels, or relu(scale * pixel + shift) by channel where `scale` is not null, which is computed as they are read.
struct PooledInput {
  ActivationView pixels;
  const float *scale, *shift;
};

// out = the largest pixel of each window, of which none is empty.
struct MaxPoolParams {
  PooledInput x;
  ActivationView out;
  Windows windows;
  Extent extent;  // of the outputs
  int threads;
};

// out = add + the gradient of each window's maximum at the first pixel, row by row, that has the largest value. With a
// mask, outputs become zero where it is not positive, and `sums` gets those of out and of out * (input - mean) for each
// block and channel, (blocks, channels, 2).
struct MaxPoolBackwardParams {
  PooledInput x;
  ActivationView gradient, out;
  const void* add;       // laid out as `out`, or null
  const ReluMask* mask;  // may be null
  double* sums;
  Windows windows;
  int64_t tallest;        // rows of the tallest window
  int64_t height, width;  // of `out`
  Extent extent;          // of the gradient
  int threads;
};

// out = add + the channels[i]-th channel of x as channel i, or zero where channels[i] is negative.
struct GatherChannelsParams {
  ActivationView x, out;
  const void* add;  // laid out as `out`, or null
  const int32_t* channels;
  Extent extent;  // of the outputs
  int threads;
};

// Images as features, in the order channel, height, width or height, width, channel.
struct FlattenParams {
  ActivationView images;
  float* features;
  const void* add;  // laid out as the images, or null; added to images that are written
  bool channels_first;
  Extent extent;  // of the images
  int threads;
};

// The kernels for one instruction set and one type of stored images. All are thread-safe and keep no state.
struct PoolingTable {
  const char* name;
  void (*window_sum)(const WindowSumParams& params);
  void (*max_pool)(const MaxPoolParams& params);
  void (*max_pool_backward)(const MaxPoolBackwardParams& params);
  void (*gather_channels)(const GatherChannelsParams& params);
  void (*flatten)(const FlattenParams& params);
  void (*unflatten)(const FlattenParams& params);
};

// The kernels for one instruction set, for images stored as float32 and as bfloat16.
struct PoolingTables {
  const PoolingTable *float32, *bfloat16;
};

// The kernels for the instruction set that find_kernels(name) finds; null pointers where there is none of this name.
PoolingTables find_pooling_kernels(const char* name);

}  // namespace sparsecore
