// The kernels for Python: arrays are checked here, so that no call from there can read or write beside its buffers.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "kernels.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace sparsecore {

void add_rows(nb::module_& module);

namespace {

using Buffer = nb::ndarray<float, nb::ndim<5>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Places = nb::ndarray<int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Sums = nb::ndarray<double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Images = nb::ndarray<const float, nb::ndim<4>, nb::device::cpu>;  // (images, height, width, channels), any strides
using WrittenImages = nb::ndarray<float, nb::ndim<4>, nb::device::cpu>;

void expect(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

// A buffer of activations, (blocks, height + 2 border, channels, width + 2 border, lanes).
struct Activation {
  Buffer buffer;
  int64_t border;
  Extent extent;
  Pixels pixels;

  Activation(Buffer given, int64_t border, int64_t images, bool features)
      : buffer(given), border(border) {
    const auto shape = [&](int axis) { return static_cast<int64_t>(buffer.shape(axis)); };
    const int64_t lanes = shape(4), blocks = features ? shape(3) : shape(0);
    expect(border >= 0 && shape(1) >= 2 * border && shape(3) >= 2 * border, "the border is wider than the buffer");
    expect(images > (blocks - 1) * lanes && images <= blocks * lanes, "the images do not fill the buffer's blocks");
    expect(!features || (border == 0 && shape(0) == 1 && shape(1) == 1), "features have one block, one row, no border");
    expect(reinterpret_cast<uintptr_t>(buffer.data()) % 64 == 0, "the buffer does not start at a cache line");
    const int64_t channel = shape(3) * lanes, row = shape(2) * channel;
    extent = {shape(0), shape(1) - 2 * border, shape(3) - 2 * border, shape(2), images - (blocks - 1) * lanes, features};
    pixels = {buffer.data() + border * (row + lanes), shape(1) * row, row, channel, lanes};
  }

  // Where the inside starts, in floats.
  int64_t start() const { return pixels.data - buffer.data(); }
};

bool alike(const Activation& one, const Activation& other) {
  const int64_t* shape = one.buffer.shape_ptr();
  return one.border == other.border && std::equal(shape, shape + 5, other.buffer.shape_ptr());
}

void expect_channels(const Floats& vector, const Extent& extent) {
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

// Which pixels a list convolution goes over: every `out_step`th output from (row, column) on, every `x_step`th input.
struct Steps {
  int64_t x_step, out_step, row, column;
};

Pixels stepped(Pixels pixels, int64_t step) {
  pixels.row *= step;
  pixels.pixel *= step;
  return pixels;
}

struct Plan {
  Input x;
  Pixels out;
  Extent extent;
  int64_t shift;  // of the first output from the inside's start

  Plan(const Read& read, const Activation& made, const Weights& weights, const Steps& steps, int lanes)
      : x(read.input(steps.x_step, &weights)) {
    const Activation& given = read.pixels;
    expect(steps.x_step > 0 && steps.out_step > 0 && steps.row >= 0 && steps.column >= 0, "steps are positive");
    expect(given.buffer.shape(4) == static_cast<size_t>(lanes) && made.buffer.shape(4) == static_cast<size_t>(lanes),
           "the buffers have another number of lanes than the kernels");
    expect(given.extent.blocks == made.extent.blocks && given.extent.last_lanes == made.extent.last_lanes,
           "input and output are of different batches");
    expect(weights.channels == made.extent.channels, "the list has another number of channels than the output");
    const auto counted = [&](int64_t side, int64_t first) {
      return first < side ? (side - first + steps.out_step - 1) / steps.out_step : int64_t{0};
    };
    extent = made.extent;
    extent.height = counted(made.extent.height, steps.row);
    extent.width = counted(made.extent.width, steps.column);
    shift = steps.row * made.pixels.row + steps.column * made.pixels.pixel;
    out = stepped(made.pixels, steps.out_step);
    out.data += shift;
    const Pixels reach = stepped(given.pixels, steps.x_step);
    const int64_t farthest = (extent.height - 1) * reach.row + (extent.width - 1) * reach.pixel + weights.most;
    expect(weights.offsets.shape(0) == 0 || empty() ||
               (given.start() + weights.least >= 0 && given.start() + farthest + lanes <= reach.block),
           "the list reads beyond the input's border");
  }

  bool empty() const { return extent.height <= 0 || extent.width <= 0; }
};

void add_up(const std::vector<double>& partial, int64_t channels, const Sums& sums) {
  for (size_t part = 0; part < partial.size() / (2 * channels); part++)
    for (int64_t i = 0; i < 2 * channels; i++) sums.data()[i] += partial[part * 2 * channels + i];
}

void expect_sums(const Sums& sums, const Extent& extent) {
  expect(static_cast<int64_t>(sums.shape(0)) == extent.channels && sums.shape(1) == 2, "sums are (channels, 2)");
}

class Bound {
 public:
  explicit Bound(const std::string& name) : table_(kernels(name.c_str())) {
    if (!table_) throw std::invalid_argument("this processor has no kernels named '" + name + "'");
  }

  const char* name() const { return table_->name; }
  int lanes() const { return table_->lanes; }

  void convolve(const Read& x, const Activation& out, const Activation* add, const Weights& weights,
                const Steps& steps, std::optional<Sums> sums, int threads) const {
    const Plan plan(x, out, weights, steps, lanes());
    if (plan.empty()) return;
    std::vector<double> partial = room(plan.extent, sums);
    const float* more = started(out, add, plan);
    {
      nb::gil_scoped_release others_may_run;
      table_->convolve(plan.x, plan.out, more, weights.list(), plan.extent, sums ? partial.data() : nullptr, threads);
    }
    if (sums) add_up(partial, plan.extent.channels, *sums);
  }

  void convolve_masked(const Read& x, const Activation& out, const Activation* add, const Weights& weights,
                       const Steps& steps, const Masking& masking, const Sums& sums, int threads) const {
    const Plan plan(x, out, weights, steps, lanes());
    if (plan.empty()) return;
    std::vector<double> partial = room(plan.extent, sums);
    Mask mask = masking.mask(out);
    mask.input = stepped(mask.input, steps.out_step);
    mask.input.data += plan.shift;
    const float* more = started(out, add, plan);
    {
      nb::gil_scoped_release others_may_run;
      table_->convolve_masked(plan.x, plan.out, more, weights.list(), plan.extent, mask, partial.data(), threads);
    }
    add_up(partial, plan.extent.channels, sums);
  }

  void weight_gradient(const Read& x, const Read& gradient, const Weights& weights, const Steps& steps,
                       const Floats& gradients, int threads) const {
    expect(steps.out_step == 1 && steps.row == 0 && steps.column == 0, "a gradient is of all outputs");
    expect(gradients.shape(0) == weights.values.shape(0), "there are not as many gradients as weights");
    const Plan plan(x, gradient.pixels, weights, steps, lanes());
    const Input given = gradient.input(1, nullptr);
    nb::gil_scoped_release others_may_run;
    table_->weight_gradient(plan.x, given, weights.list(), gradients.data(), plan.extent, threads);
  }

  void backward(const Read& x, const Read& gradient, const Weights& weights, const Floats& gradients,
                const Activation& out, const Activation* add, const Weights& transposed, const Masking* masking,
                const Sums& sums, int threads) const {
    const Activation& made = gradient.pixels;
    expect(gradients.shape(0) == weights.values.shape(0), "there are not as many gradients as weights");
    expect(made.extent.height == out.extent.height && made.extent.width == out.extent.width,
           "outputs and inputs differ in height or width");
    const Plan forward(x, made, weights, Steps{1, 1, 0, 0}, lanes());
    Plan behind(gradient, out, transposed, Steps{1, 1, 0, 0}, lanes());
    behind.x.first_row = std::min<int64_t>(behind.x.first_row, 0);
    behind.x.last_row = std::max<int64_t>(behind.x.last_row, 0);
    std::vector<double> partial = room(out.extent, sums);
    const Mask mask = masking ? masking->mask(out) : Mask{};
    const float* more = started(out, add, behind);
    {
      nb::gil_scoped_release others_may_run;
      table_->backward(forward.x, behind.x, weights.list(), gradients.data(), made.extent, out.pixels, more,
                       transposed.list(), out.extent.channels, masking ? &mask : nullptr, partial.data(), threads);
    }
    if (masking) add_up(partial, out.extent.channels, sums);
  }

  void affine(const Activation& x, const Activation& out, const Floats& scale, const Floats& shift, int threads) const {
    expect_alike(x, out), expect_channels(scale, x.extent), expect_channels(shift, x.extent);
    nb::gil_scoped_release others_may_run;
    table_->affine(x.pixels, out.pixels, scale.data(), shift.data(), x.extent, threads);
  }

  void affine_relu(const Activation& x, const Activation& out, const Floats& scale, const Floats& shift,
                   int threads) const {
    expect_alike(x, out), expect_channels(scale, x.extent), expect_channels(shift, x.extent);
    nb::gil_scoped_release others_may_run;
    table_->affine_relu(x.pixels, out.pixels, scale.data(), shift.data(), x.extent, threads);
  }

  void combine(const Activation& gradient, const Activation& x, const Activation& out, const Activation* add,
               const Floats& by_gradient, const Floats& by_x, const Floats& constant, int threads) const {
    expect_alike(gradient, out), expect_alike(x, out);
    if (add) expect_alike(*add, out);
    for (const Floats* vector : {&by_gradient, &by_x, &constant}) expect_channels(*vector, out.extent);
    nb::gil_scoped_release others_may_run;
    table_->combine(gradient.pixels, x.pixels, out.pixels, add ? add->pixels.data : nullptr, by_gradient.data(),
                    by_x.data(), constant.data(), out.extent, threads);
  }

  void masked(const Activation& gradient, const Activation& out, const Masking& masking, const Sums& sums,
              int threads) const {
    expect_alike(gradient, out);
    std::vector<double> partial = room(out.extent, sums);
    const Mask mask = masking.mask(out);
    {
      nb::gil_scoped_release others_may_run;
      table_->masked(gradient.pixels, out.pixels, mask, out.extent, partial.data(), threads);
    }
    add_up(partial, out.extent.channels, sums);
  }

  void moments(const Activation& x, const Floats& about, const Sums& sums, int threads) const {
    expect_lanes(x), expect_channels(about, x.extent);
    std::vector<double> partial = room(x.extent, sums);
    {
      nb::gil_scoped_release others_may_run;
      table_->moments(x.pixels, about.data(), x.extent, partial.data(), threads);
    }
    add_up(partial, x.extent.channels, sums);
  }

  void products(const Activation& gradient, const Activation& x, const Floats& mean, const Sums& sums,
                int threads) const {
    expect_alike(gradient, x), expect_channels(mean, x.extent);
    std::vector<double> partial = room(x.extent, sums);
    {
      nb::gil_scoped_release others_may_run;
      table_->products(gradient.pixels, x.pixels, mean.data(), x.extent, partial.data(), threads);
    }
    add_up(partial, x.extent.channels, sums);
  }

  void pool(const Activation& x, const Activation& features, int threads) const {
    expect_pooled(x, features);
    nb::gil_scoped_release others_may_run;
    table_->pool(x.pixels, features.pixels.data, x.extent, threads);
  }

  void spread(const Activation& features, const Activation& out, const Activation* add, int threads) const {
    expect_pooled(out, features);
    if (add) expect_alike(*add, out);
    nb::gil_scoped_release others_may_run;
    table_->spread(features.pixels.data, out.pixels, add ? add->pixels.data : nullptr, out.extent, threads);
  }

  void pack(const Images& images, const Activation& out, int threads) const {
    const auto [pixels, extent] = packable(out, images);
    const Strided source = strided(const_cast<float*>(images.data()), images);
    nb::gil_scoped_release others_may_run;
    table_->pack(source, pixels, extent, threads);
  }

  void unpack(const Activation& x, const WrittenImages& images, int threads) const {
    const auto [pixels, extent] = packable(x, images);
    const Strided target = strided(images.data(), images);
    nb::gil_scoped_release others_may_run;
    table_->unpack(pixels, target, extent, threads);
  }

 private:
  template <class Array>
  static Strided strided(float* data, const Array& images) {
    return {data, images.stride(0), images.stride(1), images.stride(2), images.stride(3)};
  }

  // Where the images of a buffer lie; features are images of one pixel.
  template <class Array>
  std::pair<Pixels, Extent> packable(const Activation& own, const Array& images) const {
    expect_lanes(own);
    Pixels pixels = own.pixels;
    Extent extent = own.extent;
    if (extent.features) {
      extent.blocks = extent.width, extent.width = 1, extent.features = false;
      pixels.block = pixels.pixel;
    }
    const int64_t count = (extent.blocks - 1) * lanes() + extent.last_lanes;
    const int64_t shape[] = {count, extent.height, extent.width, extent.channels};
    for (int axis = 0; axis < 4; axis++)
      expect(static_cast<int64_t>(images.shape(axis)) == shape[axis], "the images do not fit into the buffer");
    return {pixels, extent};
  }

  void expect_lanes(const Activation& x) const {
    expect(x.buffer.shape(4) == static_cast<size_t>(lanes()), "the buffer has another number of lanes than the kernels");
  }

  void expect_alike(const Activation& one, const Activation& other) const {
    expect_lanes(one);
    expect(alike(one, other), "both buffers must have one shape and border");
  }

  void expect_pooled(const Activation& x, const Activation& features) const {
    expect_lanes(x), expect_lanes(features);
    expect(features.extent.features && features.extent.channels == x.extent.channels &&
               features.extent.width == x.extent.blocks && !x.extent.features,
           "the features are not those of the images");
  }

  std::vector<double> room(const Extent& extent, const std::optional<Sums>& sums) const {
    if (!sums) return {};
    expect_sums(*sums, extent);
    return std::vector<double>(static_cast<size_t>(table_->parts(extent) * extent.channels * 2));
  }

  const float* started(const Activation& out, const Activation* add, const Plan& plan) const {
    if (!add) return nullptr;
    expect_alike(*add, out);
    return add->pixels.data + plan.shift;
  }

  const Kernels* table_;
};

// Stable, in one pass over the keys and one over the buckets: `order` gets the places of the keys by bucket, `pointers`
// (buckets + 1) where each bucket starts.
void sort_by_bucket(const Places& keys, const Places& order, const Places& pointers) {
  const int64_t count = static_cast<int64_t>(keys.shape(0)), buckets = static_cast<int64_t>(pointers.shape(0)) - 1;
  expect(keys.shape(0) == order.shape(0) && buckets >= 0, "the order has one entry a key");
  int32_t* next = pointers.data();
  std::fill(next, next + buckets + 1, 0);
  for (int64_t i = 0; i < count; i++) {
    expect(keys.data()[i] >= 0 && keys.data()[i] < buckets, "a key is no bucket");
    next[keys.data()[i] + 1]++;
  }
  std::partial_sum(next, next + buckets + 1, next);
  std::vector<int32_t> place(next, next + buckets);
  for (int64_t i = 0; i < count; i++) order.data()[place[keys.data()[i]]++] = static_cast<int32_t>(i);
}

}  // namespace
}  // namespace sparsecore

NB_MODULE(_kernels, module) {
  using namespace sparsecore;
  module.doc() = "Sparse kernels on activations of (blocks, height, channels, width, lanes).";
  // who still holds kernels or buffers when Python ends has done nothing wrong
  nb::set_leak_warnings(false);
  // noconvert: what is written to, or filled later, would be a copy that nobody has
  nb::class_<Activation>(module, "Activation")
      .def(nb::init<Buffer, int64_t, int64_t, bool>(), "buffer"_a.noconvert(), "border"_a, "images"_a, "features"_a);
  nb::class_<Read>(module, "Read")
      .def(nb::init<const Activation&>(), "pixels"_a)
      .def_static("rectified", &Read::rectified, "pixels"_a, "scale"_a, "shift"_a)
      .def_static("combined", &Read::combined, "pixels"_a, "other"_a, "scale"_a, "by_other"_a, "shift"_a);
  nb::class_<Weights>(module, "Weights")
      .def(nb::init<Places, Places, Floats, int64_t, bool>(), "pointers"_a.noconvert(), "offsets"_a.noconvert(),
           "values"_a.noconvert(), "channels"_a, "bundled"_a = false);
  nb::class_<Masking>(module, "Mask")
      .def(nb::init<const Activation&, const Floats&, const Floats&, const Floats&>(), "input"_a, "scale"_a, "shift"_a,
           "mean"_a);
  nb::class_<Steps>(module, "Steps")
      .def("__init__", [](Steps* self, int64_t x_step, int64_t out_step, int64_t row, int64_t column) {
             new (self) Steps{x_step, out_step, row, column};
           }, "x_step"_a = 1, "out_step"_a = 1, "row"_a = 0, "column"_a = 0);
  nb::class_<Bound>(module, "Kernels")
      .def(nb::init<const std::string&>(), "name"_a = "")
      .def_prop_ro("name", &Bound::name)
      .def_prop_ro("lanes", &Bound::lanes)
      .def("convolve", &Bound::convolve, "x"_a, "out"_a, "add"_a.none(), "weights"_a, "steps"_a,
           "sums"_a.none().noconvert(), "threads"_a)
      .def("convolve_masked", &Bound::convolve_masked, "x"_a, "out"_a, "add"_a.none(), "weights"_a, "steps"_a, "mask"_a,
           "sums"_a.noconvert(), "threads"_a)
      .def("weight_gradient", &Bound::weight_gradient, "x"_a, "gradient"_a, "weights"_a, "steps"_a,
           "gradients"_a.noconvert(), "threads"_a)
      .def("backward", &Bound::backward, "x"_a, "gradient"_a, "weights"_a, "gradients"_a.noconvert(), "out"_a, "add"_a.none(),
           "transposed"_a, "mask"_a.none(), "sums"_a.noconvert(), "threads"_a)
      .def("affine", &Bound::affine, "x"_a, "out"_a, "scale"_a, "shift"_a, "threads"_a)
      .def("affine_relu", &Bound::affine_relu, "x"_a, "out"_a, "scale"_a, "shift"_a, "threads"_a)
      .def("combine", &Bound::combine, "gradient"_a, "x"_a, "out"_a, "add"_a.none(), "by_gradient"_a, "by_x"_a, "constant"_a, "threads"_a)
      .def("masked", &Bound::masked, "gradient"_a, "out"_a, "mask"_a, "sums"_a.noconvert(), "threads"_a)
      .def("moments", &Bound::moments, "x"_a, "about"_a, "sums"_a.noconvert(), "threads"_a)
      .def("products", &Bound::products, "gradient"_a, "x"_a, "mean"_a, "sums"_a.noconvert(), "threads"_a)
      .def("pool", &Bound::pool, "x"_a, "features"_a, "threads"_a)
      .def("spread", &Bound::spread, "features"_a, "out"_a, "add"_a.none(), "threads"_a)
      .def("pack", &Bound::pack, "images"_a.noconvert(), "out"_a, "threads"_a)
      .def("unpack", &Bound::unpack, "x"_a, "images"_a.noconvert(), "threads"_a);
  add_rows(module);
  module.attr("BUNDLE") = BUNDLE;
  module.def("sort_by_bucket", &sort_by_bucket, "keys"_a, "order"_a.noconvert(), "pointers"_a.noconvert());
}
