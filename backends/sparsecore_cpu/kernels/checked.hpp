// What Python hands over, checked: no call from there can read or write beside its buffers.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <optional>
#include <stdexcept>

#include "kernels.hpp"

namespace sparsecore {

namespace nb = nanobind;

using Buffer = nb::ndarray<nb::ndim<5>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ReadFloats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Places = nb::ndarray<int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Sums = nb::ndarray<double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Images = nb::ndarray<const float, nb::ndim<4>, nb::device::cpu>;  // (images, height, width, channels), any strides
using WrittenImages = nb::ndarray<float, nb::ndim<4>, nb::device::cpu>;

inline void expect(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

// So many values further.
inline void* beyond(void* data, int64_t values, int64_t bytes) { return static_cast<char*>(data) + values * bytes; }

// A buffer of activations, (blocks, height + 2 border, channels, width + 2 border, lanes), of floats; or, of images, of
// the upper halves of floats as 16-bit integers (bfloat16).
struct Activation {
  Buffer buffer;
  int64_t border;
  Extent extent;
  Pixels pixels;
  int64_t start = 0;  // where the inside does, in values

  Activation(Buffer given, int64_t border, int64_t images, bool features)
      : buffer(given), border(border) {
    const auto shape = [&](int axis) { return static_cast<int64_t>(buffer.shape(axis)); };
    const int64_t lanes = shape(4), blocks = features ? shape(3) : shape(0);
    expect(buffer.dtype() == nb::dtype<float>() || (buffer.dtype() == nb::dtype<uint16_t>() && !features),
           "a buffer has floats, or one of images their upper halves as uint16");
    expect(border >= 0 && shape(1) >= 2 * border && shape(3) >= 2 * border, "the border is wider than the buffer");
    expect(images > (blocks - 1) * lanes && images <= blocks * lanes, "the images do not fill the buffer's blocks");
    expect(!features || (border == 0 && shape(0) == 1 && shape(1) == 1), "features have one block, one row, no border");
    expect(reinterpret_cast<uintptr_t>(buffer.data()) % 64 == 0, "the buffer does not start at a cache line");
    const int64_t channel = shape(3) * lanes, row = shape(2) * channel;
    extent = {shape(0), shape(1) - 2 * border, shape(3) - 2 * border, shape(2), images - (blocks - 1) * lanes, features};
    start = border * (row + lanes);
    pixels = {beyond(buffer.data(), start, bytes()), shape(1) * row, row, channel, lanes};
  }

  // Of a value.
  int64_t bytes() const { return static_cast<int64_t>(buffer.itemsize()); }
};

inline bool alike(const Activation& one, const Activation& other) {
  const int64_t* shape = one.buffer.shape_ptr();
  return one.border == other.border && one.bytes() == other.bytes() &&
         std::equal(shape, shape + 5, other.buffer.shape_ptr());
}

inline void expect_channels(const Floats& vector, const Extent& extent) {
  expect(static_cast<int64_t>(vector.shape(0)) == extent.channels, "a vector by channel has one entry a channel");
}

// The weights of a convolution; see kernels.hpp.
struct Weights {
  Places pointers, offsets;
  Floats values;
  int64_t channels;
  bool bundled;
  int64_t least = 0, most = 0;

  Weights(Places given_pointers, Places given_offsets, Floats given_values, int64_t channels, bool bundled)
      : pointers(given_pointers), offsets(given_offsets), values(given_values), channels(channels), bundled(bundled) {
    const int64_t groups = static_cast<int64_t>(pointers.shape(0)) - 1, count = static_cast<int64_t>(offsets.shape(0));
    expect(channels > 0 && groups > 0 && groups % bundles() == 0, "the groups are not those of whole input blocks");
    expect(values.shape(0) == offsets.shape(0) * (bundled ? BUNDLE : 1), "there are not as many values as offsets ask for");
    const int32_t* first = pointers.data();
    expect(first[0] == 0 && first[groups] == count && std::is_sorted(first, first + groups + 1),
           "the pointers do not run from 0 to the number of weights");
    if (count) {
      const auto [smallest, largest] = std::minmax_element(offsets.data(), offsets.data() + count);
      least = *smallest, most = *largest;
    }
  }

  List list() const {
    const int64_t groups = static_cast<int64_t>(pointers.shape(0)) - 1;
    return {pointers.data(), offsets.data(), values.data(), groups / bundles(), bundled};
  }

  int64_t bundles() const { return bundled ? (channels + BUNDLE - 1) / BUNDLE : channels; }
};

// An activation, or a function of it that the kernels compute on the way; see kernels.hpp.
struct Read {
  Activation pixels;
  std::optional<Activation> other;
  std::optional<Floats> scale, by_other, shift;

  explicit Read(const Activation& pixels) : pixels(pixels) {}

  static Read rectified(const Activation& pixels, const Floats& scale, const Floats& shift) {
    Read read(pixels);
    read.set(scale, shift);
    return read;
  }

  static Read combined(const Activation& pixels, const Activation& other, const Floats& scale, const Floats& by_other,
                       const Floats& shift) {
    expect(alike(pixels, other), "both buffers must have one shape and border");
    expect_channels(by_other, pixels.extent);
    Read read(pixels);
    read.set(scale, shift);
    read.other = other, read.by_other = by_other;
    return read;
  }

  Input input(int64_t step, const Weights* weights) const {
    const Extent& extent = pixels.extent;
    Input input{pixels.pixels, {}, nullptr, nullptr, nullptr, extent.height, extent.width, extent.channels,
                pixels.border, step, 0, 0};
    if (scale) input.scale = scale->data(), input.shift = shift->data();
    if (other) input.other = other->pixels, input.by_other = by_other->data();
    if (weights) {
      const int64_t margin = pixels.border * pixels.pixels.pixel;
      input.first_row = row_of(weights->least + margin), input.last_row = row_of(weights->most + margin);
    }
    return input;
  }

 private:
  int64_t row_of(int64_t offset) const {
    const int64_t row = pixels.pixels.row;
    return offset >= 0 ? offset / row : -((row - 1 - offset) / row);
  }

  void set(const Floats& given_scale, const Floats& given_shift) {
    expect_channels(given_scale, pixels.extent), expect_channels(given_shift, pixels.extent);
    expect(!pixels.extent.features, "features are read as they are");
    scale = given_scale, shift = given_shift;
  }
};

// Where scale * input + shift is positive; and the mean of the input.
struct Masking {
  Activation input;
  Floats scale, shift, mean;

  Masking(const Activation& input, const Floats& scale, const Floats& shift, const Floats& mean)
      : input(input), scale(scale), shift(shift), mean(mean) {
    for (const Floats* vector : {&scale, &shift, &mean}) expect_channels(*vector, input.extent);
  }

  Mask mask(const Activation& out) const {
    expect(alike(input, out), "both buffers must have one shape and border");
    return {input.pixels, scale.data(), shift.data(), mean.data()};
  }
};

}  // namespace sparsecore
