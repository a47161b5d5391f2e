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

// The kernels for one instruction set and one type of stored images. All are thread-safe and keep no state.
struct PointwiseTable {
  const char* name;
  int value_bytes;  // of a stored value of an image

  int64_t (*part_count)(Extent extent);

  PointwiseKernels functions[POINTWISE_FUNCTIONS];  // in the order of PointwiseFunction
};

struct PointwiseTables {
  const PointwiseTable *float32, *bfloat16;
};

// The kernels for the instruction set of this name, which must be that of a KernelTable.
PointwiseTables find_pointwise_kernels(const char* name);

}  // namespace sparsecore
