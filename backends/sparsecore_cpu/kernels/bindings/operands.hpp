// The operands of kernels, as Python objects. All are checked when they are made and again when they are combined, so
// that no call from Python can read or write outside of its buffers.
//
// Arrays that decide where the kernels read (pointers and offsets) are copied before they are checked, because Python
// can write to them at any time. Of arrays of floats only the memory matters. They are kept alive here, and NumPy does
// not free the memory of an array that is still referenced, except with `resize(..., refcheck=False)`.
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>
#include <optional>
#include <vector>

#include "bindings/arguments.hpp"
#include "kernels.hpp"

namespace sparsecore {

using Floats = Array<float, 1>;
using ReadonlyFloats = Array<const float, 1>;
using Indices = Array<int32_t, 1>;
using ReadonlyIndices = Array<const int32_t, 1>;
using Sums = Array<double, 2>;
using Images = Array<float, 4, false>;  // (images, height, width, channels), any strides
using ReadonlyImages = Array<const float, 4, false>;

// The same types as they are named in signatures for Python.
#define FLOATS "numpy.typing.NDArray[numpy.float32]"
#define INDICES "numpy.typing.NDArray[numpy.int32]"
#define SUMS "numpy.typing.NDArray[numpy.float64]"

// The address so many values further on.
inline void* advance(void* data, int64_t values, int64_t value_bytes) {
  return static_cast<char*>(data) + values * value_bytes;
}

// A copy of an array of indices, which nothing outside can write to.
using IndexCopy = std::shared_ptr<const std::vector<int32_t>>;

inline IndexCopy copy_indices(const ReadonlyIndices& indices) {
  return std::make_shared<const std::vector<int32_t>>(indices.data(), indices.data() + indices.length());
}

// The pointers of a list ascend from 0 to the number of offsets, which is a little below the most that 32 bits can
// count, so that kernels can go past the end.
inline void require_pointers(const std::vector<int32_t>& pointers, const std::vector<int32_t>& offsets) {
  constexpr size_t MOST = std::numeric_limits<int32_t>::max() - 16;
  require(offsets.size() <= MOST, "there are more weights than 32-bit numbers count");
  require(!pointers.empty() && pointers.front() == 0 && static_cast<size_t>(pointers.back()) == offsets.size() &&
              std::is_sorted(pointers.begin(), pointers.end()),
          "the pointers do not run from 0 to the number of weights");
}

// A buffer of activations, (blocks, height + 2 border, channels, width + 2 border, lanes), of floats or, where it holds
// images, of the upper halves of floats as 16-bit integers (bfloat16).
struct Activation {
  nb::ndarray<nb::device::cpu> buffer;
  int64_t border;
  Extent extent;
  ActivationView view;  // of the pixels inside the border
  int64_t start = 0;    // of the view in the buffer, in values

  Activation(nb::handle array, Integer border, Integer images, bool features)
      : buffer(any_array<float>("buffer", array)), border(border) {
    const bool halves = buffer.dtype() == nb::dtype<uint16_t>();
    require(buffer.dtype() == nb::dtype<float>() || (halves && !features),
            "a buffer has floats, or one of images their upper halves as uint16");
    require(buffer.ndim() == 5 && is_contiguous(buffer), "a buffer has five axes, and is contiguous in C order");
    const auto shape = [&](int axis) { return static_cast<int64_t>(buffer.shape(axis)); };
    for (int axis = 0; axis < 5; axis++) require(shape(axis) > 0, "each axis of a buffer has at least one entry");
    const int64_t lanes = shape(4), blocks = features ? shape(3) : shape(0);
    require(border >= 0 && border <= (shape(1) - 1) / 2 && border <= (shape(3) - 1) / 2,
            "the border is wider than the buffer, or leaves no pixel inside");
    require(images > (blocks - 1) * lanes && images <= blocks * lanes, "the images do not fill the buffer's blocks");
    require(!features || (border == 0 && shape(0) == 1 && shape(1) == 1),
            "features have one block, one row, no border");
    require(reinterpret_cast<uintptr_t>(buffer.data()) % 64 == 0, "the buffer does not start at a cache line");
    const int64_t channel_stride = shape(3) * lanes, row_stride = shape(2) * channel_stride;
    const int64_t last_lanes = images - (blocks - 1) * lanes;
    extent = {shape(0), shape(1) - 2 * border, shape(3) - 2 * border, shape(2), last_lanes, features};
    start = border * (row_stride + lanes);
    view = {advance(buffer.data(), start, value_bytes()), shape(1) * row_stride, row_stride, channel_stride, lanes};
  }

  int64_t value_bytes() const { return static_cast<int64_t>(buffer.itemsize()); }

  int64_t lanes() const { return static_cast<int64_t>(buffer.shape(4)); }

  MemoryRange memory() const { return memory_range(buffer.data(), extent.blocks * view.block_stride * value_bytes()); }
};

inline bool have_same_layout(const Activation& one, const Activation& other) {
  const int64_t* shape = one.buffer.shape_ptr();
  return one.border == other.border && one.value_bytes() == other.value_bytes() &&
         one.extent.features == other.extent.features && std::equal(shape, shape + 5, other.buffer.shape_ptr());
}

inline void require_same_layout(const Activation& one, const Activation& other) {
  require(have_same_layout(one, other), "both buffers must have one shape and border");
  require(one.extent.last_lanes == other.extent.last_lanes, "both buffers must be of batches of one size");
}

// A kernel that works pixel by pixel may write exactly where it reads.
inline void require_disjoint_or_same(const Activation& written, const Activation& read) {
  require(!written.memory().overlaps(read.memory()) ||
              (written.memory().equals(read.memory()) && have_same_layout(written, read)),
          "an output shares memory with an input; both must have the same address and layout, or not overlap");
}

// A vector with one entry for each channel.
inline ReadonlyFloats by_channel(const char* name, nb::handle array, const Extent& extent) {
  ReadonlyFloats vector(name, array);
  require(vector.length() == extent.channels, "a vector by channel has one entry a channel");
  return vector;
}

// The input channels of weights that read the output's own pixel, for an input whose channels lie so far apart.
struct OwnPixelChannels {
  int64_t channel_stride;
  std::vector<uint16_t> channels;
};

// The weights of a convolution; see WeightList in kernels.hpp.
struct Weights {
  IndexCopy pointers, offsets;
  ReadonlyFloats values;
  int64_t channels;
  bool bundled;
  int64_t lowest_offset = 0, highest_offset = 0;
  int32_t offset_bits = 0;     // the bits that are set in any offset
  int32_t offset_divisor = 0;  // the greatest number that divides all offsets, if none is negative
  // What `own_pixel_channels` has made, for all copies of this object; it is replaced where the stride changes.
  std::shared_ptr<std::shared_ptr<const OwnPixelChannels>> made =
      std::make_shared<std::shared_ptr<const OwnPixelChannels>>();

  Weights(nb::handle given_pointers, nb::handle given_offsets, nb::handle given_values, Integer channels, bool bundled)
      : pointers(copy_indices(ReadonlyIndices("pointers", given_pointers))),
        offsets(copy_indices(ReadonlyIndices("offsets", given_offsets))),
        values("values", given_values),
        channels(channels),
        bundled(bundled) {
    const int64_t groups = static_cast<int64_t>(pointers->size()) - 1, count = static_cast<int64_t>(offsets->size());
    require(channels > 0 && channels <= groups * BUNDLE && groups % groups_per_block() == 0,
            "the groups are not those of whole input blocks");
    require(values.length() == count * (bundled ? BUNDLE : 1), "there are not as many values as offsets ask for");
    require_pointers(*pointers, *offsets);
    if (!count) return;
    const auto [lowest, highest] = std::minmax_element(offsets->begin(), offsets->end());
    lowest_offset = *lowest, highest_offset = *highest;
    for (const int32_t offset : *offsets) {
      offset_bits |= offset;
      if (lowest_offset >= 0 && offset_divisor != 1) offset_divisor = std::gcd(offset_divisor, offset);
    }
  }

  // The input channel of each weight, where all weights read the output's own pixel of `input`; else null.
  std::shared_ptr<const OwnPixelChannels> own_pixel_channels(const Activation& input) const {
    constexpr int64_t MOST_CHANNELS = 1 << 16;
    const int64_t stride = input.view.channel_stride, count = input.extent.channels;
    if (bundled || offsets->empty() || count > MOST_CHANNELS || offset_divisor % stride || lowest_offset < 0 ||
        highest_offset >= count * stride)
      return nullptr;
    if (!*made || (*made)->channel_stride != stride) {
      OwnPixelChannels found{stride, std::vector<uint16_t>(offsets->size())};
      for (size_t k = 0; k < offsets->size(); k++) found.channels[k] = static_cast<uint16_t>((*offsets)[k] / stride);
      *made = std::make_shared<const OwnPixelChannels>(std::move(found));
    }
    return *made;
  }

  WeightList list() const {
    const int64_t groups = static_cast<int64_t>(pointers->size()) - 1;
    return {pointers->data(), offsets->data(), values.data(), groups / groups_per_block(), bundled};
  }

  // The groups of weights in each block of input channels.
  int64_t groups_per_block() const { return bundled ? (channels + BUNDLE - 1) / BUNDLE : channels; }
};

// The input of a convolution: an activation, or a function of it that is computed as it is read; see ConvolutionInput
// in kernels.hpp.
struct Input {
  Activation pixels;
  std::optional<Activation> other;
  std::optional<ReadonlyFloats> scale, other_scale, shift;

  explicit Input(const Activation& pixels) : pixels(pixels) {}

  static Input rectified(const Activation& pixels, nb::handle scale, nb::handle shift) {
    Input input(pixels);
    input.set_affine(scale, shift);
    return input;
  }

  static Input combined(const Activation& pixels, const Activation& other, nb::handle scale, nb::handle other_scale,
                        nb::handle shift) {
    require_same_layout(pixels, other);
    Input input(pixels);
    input.set_affine(scale, shift);
    input.other = other, input.other_scale = by_channel("other_scale", other_scale, pixels.extent);
    return input;
  }

  // Without the first and the last row that are read, which depend on the weights.
  ConvolutionInput convolution_input(int64_t row_step, int64_t column_step) const {
    const Extent& extent = pixels.extent;
    ConvolutionInput input{};
    input.pixels = pixels.view;
    input.height = extent.height, input.width = extent.width, input.channels = extent.channels;
    input.border = pixels.border;
    input.row_step = row_step, input.column_step = column_step;
    if (scale) input.scale = scale->data(), input.shift = shift->data();
    if (other) input.other = other->view, input.other_scale = other_scale->data();
    return input;
  }

  void require_disjoint_from(const MemoryRange& written) const {
    require_disjoint(written, {pixels.memory()});
    if (other) require_disjoint(written, {other->memory(), other_scale->memory()});
    if (scale) require_disjoint(written, {scale->memory(), shift->memory()});
  }

 private:
  void set_affine(nb::handle given_scale, nb::handle given_shift) {
    require(!pixels.extent.features, "features are read as they are");
    scale = by_channel("scale", given_scale, pixels.extent), shift = by_channel("shift", given_shift, pixels.extent);
  }
};

// Where relu(scale * input + shift) is positive; and the mean of the input.
struct Mask {
  Activation input;
  ReadonlyFloats scale, shift, mean;

  Mask(const Activation& input, nb::handle scale, nb::handle shift, nb::handle mean)
      : input(input),
        scale(by_channel("scale", scale, input.extent)),
        shift(by_channel("shift", shift, input.extent)),
        mean(by_channel("mean", mean, input.extent)) {}

  // The mask for these outputs.
  ReluMask mask_of(const Activation& out) const {
    require_same_layout(input, out);
    require_disjoint_or_same(out, input);
    require_disjoint(out.memory(), {scale.memory(), shift.memory(), mean.memory()});
    return {input.view, scale.data(), shift.data(), mean.data()};
  }
};

}  // namespace sparsecore
