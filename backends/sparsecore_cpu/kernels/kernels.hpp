// The interface between the Python bindings and the kernels: a table of functions for each instruction set.
//
// The activations of images are stored as (blocks, height + 2 border, channels, width + 2 border, lanes): a vector
// holds the same pixel of `lanes` images. The border is zero, and so are the lanes of the last block that hold no
// image. Features are stored as one image of height 1 whose width counts the blocks of the batch: (1, 1, features,
// blocks, lanes).
#pragma once

#include <cstdint>

namespace sparsecore {

// The pixels inside the border of a buffer. Strides count values: floats, or 16-bit halves of them (bfloat16).
struct ActivationView {
  void* data;  // the pixel (0, 0) of the first channel
  int64_t block_stride, row_stride, channel_stride, pixel_stride;
};

// An array of images of another program. Strides count floats.
struct ImageView {
  float* data;
  int64_t image_stride, row_stride, column_stride, channel_stride;
};

// How many pixels a kernel computes.
struct Extent {
  int64_t blocks, height, width, channels;
  int64_t last_lanes;  // lanes in use in the last block or, of features, in the last pixel of the row
  bool features;
};

// The input of a convolution: the pixels themselves, or a function of them that is computed as they are read:
// - relu(scale * pixel + shift), a batch norm and the relu behind it;
// - scale * pixel + other_scale * other + shift, the gradient through a batch norm.
// `scale`, `other_scale` and `shift` have an entry for each channel. Without `scale` it is the pixels themselves,
// without `other.data` the first function.
struct ConvolutionInput {
  ActivationView pixels, other;
  const float *scale, *other_scale, *shift;
  int64_t height, width, channels, border;
  int64_t row_step, column_step;  // input pixels from one output pixel to the next
  int64_t first_row, last_row;    // the first and the last row that an output reads, relative to its own position
};

// The nonzero weights of a convolution. They are sorted by block of input channels, then by output channel: those of
// input block i and output channel c are pointers[i * channels + c] up to the next pointer. Weight k multiplies the
// input at offsets[k], relative to the output's own position.
//
// Dense layers are stored in bundles: BUNDLE output channels share their offsets, so that each offset has BUNDLE
// values, and a pointer belongs to a bundle of channels, of which the last one may be incomplete.
//
// Where every weight of a list that is not bundled reads the output's own pixel, `channels` has the input channel of
// each; else it is null.
struct WeightList {
  const int32_t* pointers;
  const int32_t* offsets;
  const float* values;
  int64_t input_blocks;
  bool bundled;
  const uint16_t* channels = nullptr;
};

constexpr int BUNDLE = 4;

// The transposed weights for every stride-th pixel of the input's gradient in both directions. The first such pixel
// is `output_offset` values behind the first pixel of the image.
struct TransposedWeights {
  WeightList weights;
  int64_t output_offset;
};
struct TransposedWeightsSpan {
  const TransposedWeights* data;
  int64_t size;
  const TransposedWeights* begin() const { return data; }
  const TransposedWeights* end() const { return data + size; }
};

// Where relu(scale * input + shift) is positive; and the mean of the input. `input` is laid out as the outputs.
struct ReluMask {
  ActivationView input;
  const float *scale, *shift, *mean;
};

// out = add + weights * x. Without `add` (null) it is weights * x; else `add` is laid out as `out`.
struct ConvolutionParams {
  ConvolutionInput x;
  ActivationView out;
  const void* add;
  WeightList weights;
  Extent extent;  // of the outputs
  int threads;
};

// gradients[k] = the sum over all outputs of gradient * x at the offset of weight k.
struct WeightGradientParams {
  ConvolutionInput x, gradient;
  WeightList weights;
  float* gradients;
  Extent extent;  // of the outputs
  int threads;
};

// Both gradients of a convolution in one pass, so that what is read of the outputs' gradient is computed once. Each of
// the `transposed` weights makes as many pixels of `out`, the gradient of the input, as there are outputs.
struct BackwardParams {
  ConvolutionInput x, gradient;
  WeightList weights;
  float* weight_gradients;
  Extent extent;  // of the outputs
  ActivationView out;
  const void* add;
  TransposedWeightsSpan transposed;
  int64_t input_channels;
  const ReluMask* mask;  // may be null
  double* sums;          // for each part, over the pixels of all `transposed` weights together
  int threads;
};

// out = scale * x + shift by channel.
struct AffineParams {
  ActivationView x, out;
  const float *scale, *shift;
  Extent extent;
  int threads;
};

// out = gradient_scale * gradient + x_scale * x + constant by channel, plus `add` if that is not null.
struct CombineParams {
  ActivationView gradient, x, out;
  const void* add;
  const float *gradient_scale, *x_scale, *constant;
  Extent extent;
  int threads;
};

// A convolution of one image, out = min(max(add + bias + weights * x, floor), ceiling). Each channel is contiguous, row
// behind row with zeros between the rows. The rows of inputs and outputs are equally far apart, so that a weight has
// one offset for all outputs. `inside` is 1 for the outputs inside the image and 0 for those between its rows, which
// become zero.
struct RowConvolutionParams {
  const float* x;
  float* out;
  const float *add, *bias, *inside;   // `add` is laid out as `out`, or null
  const int32_t *pointers, *offsets;  // as of a WeightList with one input block
  const float* values;
  int64_t channel_stride, channels, pixels;  // the stride is that of the outputs, in floats
  float floor, ceiling;
};

// The kernels for one instruction set and one type of stored images. All are thread-safe and keep no state.
//
// Two sums for each channel are made in parts, so that they do not depend on the number of threads: `sums` is an array
// of (part_count(extent), channels, 2) that the caller adds up.
struct KernelTable {
  const char* name;
  int lanes;
  int value_bytes;  // of a stored value of an image

  int64_t (*part_count)(Extent extent);

  // `sums`, if not null, gets the sums of the outputs and of their squares.
  void (*convolve)(const ConvolutionParams& params, double* sums);

  // Outputs become zero where the mask is not positive; `sums` gets those of out and of out * (input - mean).
  void (*convolve_masked)(const ConvolutionParams& params, const ReluMask& mask, double* sums);

  void (*weight_gradient)(const WeightGradientParams& params);
  void (*backward)(const BackwardParams& params);

  void (*affine)(const AffineParams& params);
  void (*affine_relu)(const AffineParams& params);  // and zero where that is negative
  void (*combine)(const CombineParams& params);

  // out = gradient where the mask is positive, else zero; `sums` as of convolve_masked.
  void (*relu_backward)(ActivationView gradient, ActivationView out, const ReluMask& mask, Extent extent, double* sums,
                        int threads);

  // `sums` gets those of x - about and of its square.
  void (*moments)(ActivationView x, const float* about, Extent extent, double* sums, int threads);

  // `sums` gets those of gradient and of gradient * (x - mean).
  void (*gradient_sums)(ActivationView gradient, ActivationView x, const float* mean, Extent extent, double* sums,
                        int threads);

  // The mean over height and width, as features; and its gradient, plus `add` if that is not null.
  void (*pool)(ActivationView x, float* features, Extent extent, int threads);
  void (*pool_backward)(const float* features, ActivationView out, const void* add, Extent extent, int threads);

  // Conversion from and to other programs' images. Of features, the block stride steps over blocks of the batch.
  void (*pack)(ImageView images, ActivationView out, Extent extent, int threads);
  void (*unpack)(ActivationView x, ImageView images, Extent extent, int threads);

  void (*convolve_rows)(const RowConvolutionParams& params, int threads);
};

// The kernels for one instruction set, for images stored as float32 and as bfloat16.
struct KernelTables {
  const KernelTable *float32, *bfloat16;
};

// The kernels for the instruction set of this name or, where it is empty, for the best one of this processor. Null
// pointers where this processor has none of this name.
KernelTables find_kernels(const char* name);

}  // namespace sparsecore
