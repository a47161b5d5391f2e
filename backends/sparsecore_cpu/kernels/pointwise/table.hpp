// The interface between the Python bindings and the kernels that work on activations entry by entry. It is apart from
// that of the convolutions, so that a change of one does not compile the other.
#pragma once

#include "kernels.hpp"

namespace sparsecore {

// The functions that are applied to each entry. GELU_TANH is the approximation of GELU by tanh.
enum class PointwiseFunction {
  RELU6,
  LEAKY_RELU,  // the parameter is the slope below zero
  SILU,
  GELU,
  GELU_TANH,
  HARDSWISH,
  HARDSIGMOID,
  SIGMOID,
  TANH,
  ELU,       // the parameter is alpha
  SOFTPLUS,  // the parameter is beta
  MISH,
};
constexpr int POINTWISE_FUNCTIONS = static_cast<int>(PointwiseFunction::MISH) + 1;

// out = add + function(scale * x + shift), scale and shift by channel.
//
// Backward, out = add + gradient * function'(scale * x + shift); and `sums`, if not null, gets two for each part and
// channel: those of out and of out * (x - mean).
struct PointwiseParams {
  ActivationView x, out;
  const void* add;  // laid out as `out`, or null
  const float *scale, *shift;
  float parameter;  // of the function
  Extent extent;
  int threads;
};
struct PointwiseBackwardParams {
  PointwiseParams forward;
  ActivationView gradient;
  const float* mean;
  double* sums;
};

struct PointwiseKernels {
  void (*forward)(const PointwiseParams& params);
  void (*backward)(const PointwiseBackwardParams& params);
};

// out = add + x * y or, of sums, add + x + y. Of what is broadcast, `y` has strides of zero.
struct ProductParams {
  ActivationView x, y, out;
  const void* add;  // laid out as `out`, or null
  Extent extent;
  int threads;
};

// The sums of x or, where there is a y, of x * y: over the pixels of an image as features, (channels, blocks, lanes),
// or over the channels.
struct ProductSumParams {
  ActivationView x;
  const ActivationView* y;  // may be null
  ActivationView out;
  Extent extent;  // of x
  int threads;
};

// out = add + factor * x where `kept` is not zero, elsewhere add. `kept` has an entry for each of x inside the border,
// (blocks, height, channels, width, lanes).
struct DropoutParams {
  ActivationView x, out;
  const void* add;  // laid out as `out`, or null
  const uint8_t* kept;
  float factor;
  Extent extent;
  int threads;
};

// out = (x - mean) / sqrt(variance + epsilon) * scale + shift, scale and shift by channel. Mean and variance are those
// of the channels of one group: of one pixel or vector, or of all pixels of one image. `statistics` gets the mean and
// the inverse deviation of each, (pixels of all blocks or blocks, groups, 2, lanes). If it is not `centered`, the mean
// is zero.
struct NormalizationParams {
  ActivationView x, out;
  const float *scale, *shift;
  float* statistics;
  int64_t groups;
  float epsilon;
  bool centered;
  Extent extent;
  int threads;
};

// out = add + the gradient for x. `sums` gets two for each part and channel: those of gradient * (x - mean) * inverse
// deviation, and of the gradient.
struct NormalizationBackwardParams {
  ActivationView gradient, x, out;
  const void* add;  // laid out as `out`, or null
  const float *scale, *statistics;
  int64_t groups;
  bool centered;
  double* sums;
  Extent extent;
  int threads;
};

struct NormalizationKernels {
  void (*forward)(const NormalizationParams& params);
  void (*backward)(const NormalizationBackwardParams& params);
  int64_t (*part_count)(Extent extent);
};

// The kernels for one instruction set and one type of stored images. All are thread-safe and keep no state.
struct PointwiseTable {
  const char* name;
  int value_bytes;  // of a stored value of an image

  int64_t (*part_count)(Extent extent);

  PointwiseKernels functions[POINTWISE_FUNCTIONS];  // in the order of PointwiseFunction

  // `y` is stored as `x` is or, of the second ones, as float32.
  void (*multiply)(const ProductParams& params);
  void (*multiply_by_floats)(const ProductParams& params);
  void (*add)(const ProductParams& params);
  void (*add_floats)(const ProductParams& params);
  void (*sum_pixels)(const ProductSumParams& params);
  void (*sum_channels)(const ProductSumParams& params);

  void (*dropout)(const DropoutParams& params);

  NormalizationKernels by_pixel, by_image;
};

struct PointwiseTables {
  const PointwiseTable *float32, *bfloat16;
};

// The kernels for the instruction set of this name, which must be that of a KernelTable.
PointwiseTables find_pointwise_kernels(const char* name);

}  // namespace sparsecore
