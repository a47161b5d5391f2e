// The kernels as a table of functions: one table for each instruction set, all of this one type.
//
// Activations lie as (blocks, height + 2 border, channels, width + 2 border, lanes): `lanes` images side by side in a
// vector, the borders and the lanes beyond the batch zero. Vectors of features lie as images of height 1 whose width
// counts the blocks of the batch, with one block: (1, 1, features, blocks, lanes).
#pragma once

#include <cstdint>

namespace sparsecore {

// Where pixels lie; `data` is the pixel (0, 0) inside the border, strides count values. Those of images are what the
// kernels store, those of features floats.
struct Pixels {
  void* data;
  int64_t block, row, channel, pixel;
};

// Somebody else's tensor of images: strides count floats.
struct Strided {
  float* data;
  int64_t image, row, column, channel;
};

// What a convolution reads. Beside the pixels themselves that can be a function of them, which each part of the work
// computes for itself, in its cache: by channel, scale * pixel + shift and zero where that is negative (batch norm and
// relu), or scale * pixel + by_other * other + shift (the gradient before a batch norm). With `scale` null it is neither,
// with `other.data` null the first.
struct Input {
  Pixels pixels, other;
  const float *scale, *by_other, *shift;
  int64_t height, width, channels, border;
  int64_t step;            // pixels from the place of one output to that of the next
  int64_t first_row, last_row;  // that an output reads, counted from its place; the last one included
};

struct Extent {
  int64_t blocks, height, width, channels;
  int64_t last_lanes;  // of the last block, or of the last pixel of a row where `features`
  bool features;
};

// The weights of a convolution, in groups by blocks of input channels, then by output channel: those of block i and
// channel c are pointers[i * channels + c] up to the next. Each is a value and where it reads, from an output's place.
// Where most weights exist, BUNDLE output channels read from the same places: then a group is of a bundle of channels,
// the last one perhaps not full, and there are BUNDLE values a place.
struct List {
  const int32_t* pointers;
  const int32_t* offsets;
  const float* values;
  int64_t input_blocks;
  bool bundled;
};

constexpr int BUNDLE = 4;

// The transposed weights that make the gradient of every stride-th input pixel in both directions, from the pixel on that
// lies `shift` values from the first.
struct Behind {
  List list;
  int64_t shift;
};
struct Behinds {
  const Behind* first;
  int64_t count;
  const Behind* begin() const { return first; }
  const Behind* end() const { return first + count; }
};

// A convolution of one image whose channels each lie in one run, row behind row with zeros between them. The rows of
// inputs and outputs are as far apart, so that a weight reads at one offset from every output; outputs go on for
// `pixels` from one row into the next. `inside` is 1 for those that are in the image and 0 for those between, which
// become zero.
struct Rows {
  const float* x;
  float* out;
  const float *add, *bias, *inside;  // `add` lies as the outputs, or is null
  const int32_t *pointers, *offsets;  // as in List, with one block
  const float* values;
  int64_t channel, channels, pixels;  // `channel`: floats from one output channel to the next
  float floor;
};

// What happens to the outputs of a convolution beside being stored; `sums` has (parts, channels, 2).
struct Mask {
  Pixels input;  // of the batch norm, laid out as the outputs
  const float *scale, *shift, *mean;
};

struct Kernels {
  const char* name;
  int lanes;
  int bytes;  // of a stored value

  int64_t (*parts)(Extent extent);  // how many partial sums a pass over this extent makes

  // out = add + list * x, where `add` may be null; `sums`, if any, gets the sums of the outputs and of their squares
  void (*convolve)(const Input& x, Pixels out, const void* add, List list, Extent extent, double* sums, int threads);

  // the same, with outputs zero where scale * input + shift <= 0; `sums` gets those of out and out * (input - mean)
  void (*convolve_masked)(const Input& x, Pixels out, const void* add, List list, Extent extent, Mask mask,
                          double* sums, int threads);

  // gradients[k] = sum over all outputs of gradient * x at the offset of k
  void (*weight_gradient)(const Input& x, const Input& gradient, List list, float* gradients, Extent extent,
                          int threads);

  // both gradients of a convolution in one pass, so that what it reads of the outputs' gradient is computed once.
  // `extent` is the outputs', `inputs` the number of input channels; each of `behind` makes as many pixels of `out` as
  // there are outputs. `sums` are for each part and all of `behind` together.
  void (*backward)(const Input& x, const Input& gradient, List list, float* gradients, Extent extent, Pixels out,
                   const void* add, Behinds behind, int64_t inputs, const Mask* mask, double* sums, int threads);

  // out = scale * x + shift by channel, and zero where that is negative
  void (*affine)(Pixels x, Pixels out, const float* scale, const float* shift, Extent extent, int threads);
  void (*affine_relu)(Pixels x, Pixels out, const float* scale, const float* shift, Extent extent, int threads);

  // out = by_gradient * gradient + by_x * x + constant by channel, plus `add` if not null
  void (*combine)(Pixels gradient, Pixels x, Pixels out, const void* add, const float* by_gradient, const float* by_x,
                  const float* constant, Extent extent, int threads);

  // out = gradient where scale * input + shift > 0; `sums` as in convolve_masked
  void (*masked)(Pixels gradient, Pixels out, Mask mask, Extent extent, double* sums, int threads);

  // `sums` gets those of x - about and of its square, by channel
  void (*moments)(Pixels x, const float* about, Extent extent, double* sums, int threads);

  // `sums` gets those of gradient and of gradient * (x - mean), by channel
  void (*products)(Pixels gradient, Pixels x, const float* mean, Extent extent, double* sums, int threads);

  // the mean over height and width, as features; and the gradient back from there
  void (*pool)(Pixels x, float* features, Extent extent, int threads);
  void (*spread)(const float* features, Pixels out, const void* add, Extent extent, int threads);

  // from and to somebody else's tensor; of features, blocks are what `out.block` and `x.block` step over
  void (*pack)(Strided source, Pixels out, Extent extent, int threads);
  void (*unpack)(Pixels x, Strided target, Extent extent, int threads);

  // out = max(add + bias + list * x, floor)
  void (*convolve_rows)(const Rows& rows, int threads);
};

// Kernels for one instruction set, whose images are stored as floats or as bfloat16.
struct Tables {
  const Kernels *floats, *halves;
};

// Those of the name asked for, or of the best that this processor has; null where it has none of that name.
Tables kernels(const char* name);

}  // namespace sparsecore
