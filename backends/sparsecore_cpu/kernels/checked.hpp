// What Python hands over, checked: no call from there can read or write beside its buffers.
//
// Arrays that decide where the kernels read (pointers, offsets) are copied before they are checked, because Python can
// write to them at any time. Of arrays of floats only the memory matters, which is held here; NumPy frees the memory of
// an array that is held only where it is told not to look (`resize(..., refcheck=False)`).
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "arrays.hpp"
#include "kernels.hpp"

namespace sparsecore {

using Floats = Array<float, 1>;
using ReadFloats = Array<const float, 1>;
using Places = Array<int32_t, 1>;
using ReadPlaces = Array<const int32_t, 1>;
using Sums = Array<double, 2>;
using Images = Array<const float, 4, false>;  // (images, height, width, channels), any strides
using WrittenImages = Array<float, 4, false>;

// So many values further.
inline void* beyond(void* data, int64_t values, int64_t bytes) { return static_cast<char*>(data) + values * bytes; }

// A copy that nobody else can write to.
using Copy = std::shared_ptr<const std::vector<int32_t>>;

inline Copy copied(const ReadPlaces& places) {
  return std::make_shared<const std::vector<int32_t>>(places.data(), places.data() + places.length());
}

// A list's pointers ascend from 0 to the number of weights, which leaves room for a few more in 32 bits.
inline void expect_pointers(const std::vector<int32_t>& pointers, const std::vector<int32_t>& offsets) {
  constexpr size_t MOST = std::numeric_limits<int32_t>::max() - 16;
  expect(offsets.size() <= MOST, "there are more weights than 32-bit numbers count");
  expect(!pointers.empty() && pointers.front() == 0 && static_cast<size_t>(pointers.back()) == offsets.size() &&
             std::is_sorted(pointers.begin(), pointers.end()),
         "the pointers do not run from 0 to the number of weights");
}

// A buffer of activations, (blocks, height + 2 border, channels, width + 2 border, lanes), of floats; or, of images, of
// the upper halves of floats as 16-bit integers (bfloat16).
struct Activation {
  nb::ndarray<nb::device::cpu> buffer;
  int64_t border;
  Extent extent;
  Pixels pixels;
  int64_t start = 0;  // where the inside does, in values

  Activation(nb::handle given, Integer border, Integer images, bool features)
      : buffer(any_array<float>("buffer", given)), border(border) {
    const bool halves = buffer.dtype() == nb::dtype<uint16_t>();
    expect(buffer.dtype() == nb::dtype<float>() || (halves && !features),
           "a buffer has floats, or one of images their upper halves as uint16");
    expect(buffer.ndim() == 5 && is_contiguous(buffer), "a buffer has five axes, and is contiguous in C order");
    const auto shape = [&](int axis) { return static_cast<int64_t>(buffer.shape(axis)); };
    for (int axis = 0; axis < 5; axis++) expect(shape(axis) > 0, "each axis of a buffer has an entry at least");
    const int64_t lanes = shape(4), blocks = features ? shape(3) : shape(0);
    expect(border >= 0 && border <= (shape(1) - 1) / 2 && border <= (shape(3) - 1) / 2,
           "the border is wider than the buffer, or leaves no pixel inside");
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

  int64_t lanes() const { return static_cast<int64_t>(buffer.shape(4)); }

  Span span() const { return span_of(buffer.data(), extent.blocks * pixels.block * bytes()); }
};

inline bool alike(const Activation& one, const Activation& other) {
  const int64_t* shape = one.buffer.shape_ptr();
  return one.border == other.border && one.bytes() == other.bytes() && one.extent.features == other.extent.features &&
         std::equal(shape, shape + 5, other.buffer.shape_ptr());
}

inline void expect_alike(const Activation& one, const Activation& other) {
  expect(alike(one, other), "both buffers must have one shape and border");
  expect(one.extent.last_lanes == other.extent.last_lanes, "both buffers must be of batches of one size");
}

// What is computed pixel by pixel may be written to where it was read.
inline void expect_apart_or_same(const Activation& written, const Activation& read) {
  expect(!written.span().meets(read.span()) || (written.span().equals(read.span()) && alike(written, read)),
         "an output shares memory with an input, and does not lie exactly as that does");
}

template <class Vector>
void expect_channels(const Vector& vector, const Extent& extent) {
  expect(vector.length() == extent.channels, "a vector by channel has one entry a channel");
}

// A vector by channel.
inline ReadFloats by_channel(const char* name, nb::handle given, const Extent& extent) {
  ReadFloats vector(name, given);
  expect_channels(vector, extent);
  return vector;
}

// The weights of a convolution; see kernels.hpp.
struct Weights {
  Copy pointers, offsets;
  ReadFloats values;
  int64_t channels;
  bool bundled;
  int64_t least = 0, most = 0;
  int32_t bits = 0;  // that any offset has

  Weights(nb::handle given_pointers, nb::handle given_offsets, nb::handle given_values, Integer channels, bool bundled)
      : pointers(copied(ReadPlaces("pointers", given_pointers))),
        offsets(copied(ReadPlaces("offsets", given_offsets))),
        values("values", given_values),
        channels(channels),
        bundled(bundled) {
    const int64_t groups = static_cast<int64_t>(pointers->size()) - 1, count = static_cast<int64_t>(offsets->size());
    expect(channels > 0 && channels <= groups * BUNDLE && groups % bundles() == 0,
           "the groups are not those of whole input blocks");
    expect(values.length() == count * (bundled ? BUNDLE : 1), "there are not as many values as offsets ask for");
    expect_pointers(*pointers, *offsets);
    if (!count) return;
    const auto [smallest, largest] = std::minmax_element(offsets->begin(), offsets->end());
    least = *smallest, most = *largest;
    for (const int32_t offset : *offsets) bits |= offset;
  }

  List list() const {
    const int64_t groups = static_cast<int64_t>(pointers->size()) - 1;
    return {pointers->data(), offsets->data(), values.data(), groups / bundles(), bundled};
  }

  int64_t bundles() const { return bundled ? (channels + BUNDLE - 1) / BUNDLE : channels; }
};

// An activation, or a function of it that the kernels compute on the way; see kernels.hpp.
struct Read {
  Activation pixels;
  std::optional<Activation> other;
  std::optional<ReadFloats> scale, by_other, shift;

  explicit Read(const Activation& pixels) : pixels(pixels) {}

  static Read rectified(const Activation& pixels, nb::handle scale, nb::handle shift) {
    Read read(pixels);
    read.set(scale, shift);
    return read;
  }

  static Read combined(const Activation& pixels, const Activation& other, nb::handle scale, nb::handle by_other,
                       nb::handle shift) {
    expect_alike(pixels, other);
    Read read(pixels);
    read.set(scale, shift);
    read.other = other, read.by_other = by_channel("by_other", by_other, pixels.extent);
    return read;
  }

  // Without the rows that are read, which depend on what reads.
  Input input(int64_t step) const {
    const Extent& extent = pixels.extent;
    Input input{pixels.pixels, {}, nullptr, nullptr, nullptr, extent.height, extent.width, extent.channels,
                pixels.border, step, 0, 0};
    if (scale) input.scale = scale->data(), input.shift = shift->data();
    if (other) input.other = other->pixels, input.by_other = by_other->data();
    return input;
  }

  void expect_apart_from(const Span& written) const {
    expect_apart(written, {pixels.span()});
    if (other) expect_apart(written, {other->span(), by_other->span()});
    if (scale) expect_apart(written, {scale->span(), shift->span()});
  }

 private:
  void set(nb::handle given_scale, nb::handle given_shift) {
    expect(!pixels.extent.features, "features are read as they are");
    scale = by_channel("scale", given_scale, pixels.extent), shift = by_channel("shift", given_shift, pixels.extent);
  }
};

// Where scale * input + shift is positive; and the mean of the input.
struct Masking {
  Activation input;
  ReadFloats scale, shift, mean;

  Masking(const Activation& input, nb::handle scale, nb::handle shift, nb::handle mean)
      : input(input),
        scale(by_channel("scale", scale, input.extent)),
        shift(by_channel("shift", shift, input.extent)),
        mean(by_channel("mean", mean, input.extent)) {}

  Mask mask(const Activation& out) const {
    expect_alike(input, out);
    expect_apart_or_same(out, input);
    expect_apart(out.span(), {scale.span(), shift.span(), mean.span()});
    return {input.pixels, scale.data(), shift.data(), mean.data()};
  }
};

}  // namespace sparsecore
