// The kernels for one instruction set, as Python calls them.
#pragma once

#include <nanobind/stl/optional.h>

#include <string>
#include <utility>
#include <vector>

#include "plan.hpp"

namespace sparsecore {

inline void add_up(const std::vector<double>& partial, int64_t channels, const Sums& sums) {
  for (size_t part = 0; part < partial.size() / (2 * channels); part++)
    for (int64_t i = 0; i < 2 * channels; i++) sums.data()[i] += partial[part * 2 * channels + i];
}

inline void expect_sums(const Sums& sums, const Extent& extent) {
  expect(static_cast<int64_t>(sums.shape(0)) == extent.channels && sums.shape(1) == 2, "sums are (channels, 2)");
}

class Bound {
 public:
  explicit Bound(const std::string& name) : tables_(kernels(name.c_str())) {
    if (!tables_.floats) throw std::invalid_argument("this processor has no kernels named '" + name + "'");
  }

  const char* name() const { return tables_.floats->name; }
  int lanes() const { return tables_.floats->lanes; }

  void convolve(const Read& x, const Activation& out, const Activation* add, const Weights& weights,
                const Steps& steps, std::optional<Sums> sums, int threads) const {
    const Plan plan(x, out, weights, steps, lanes());
    if (plan.empty()) return;
    std::vector<double> partial = room(plan.extent, sums);
    const void* more = started(out, add, plan);
    {
      nb::gil_scoped_release others_may_run;
      of(out)->convolve(plan.x, plan.out, more, weights.list(), plan.extent, sums ? partial.data() : nullptr, threads);
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
    mask.input.data = beyond(mask.input.data, plan.shift, out.bytes());
    const void* more = started(out, add, plan);
    {
      nb::gil_scoped_release others_may_run;
      of(out)->convolve_masked(plan.x, plan.out, more, weights.list(), plan.extent, mask, partial.data(), threads);
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
    of(x.pixels)->weight_gradient(plan.x, given, weights.list(), gradients.data(), plan.extent, threads);
  }

  // `transposed`: pairs of weights and the steps at which they make the inputs' gradient.
  void backward(const Read& x, const Read& gradient, const Weights& weights, int64_t stride, const Floats& gradients,
                const Activation& out, const Activation* add, const nb::sequence& transposed, const Masking* masking,
                const Sums& sums, int threads) const {
    const Activation& made = gradient.pixels;
    expect(gradients.shape(0) == weights.values.shape(0), "there are not as many gradients as weights");
    const Plan forward(x, made, weights, Steps{stride, 1, 0, 0}, lanes());
    Input given = gradient.input(1, nullptr);
    Pixels to = stepped(out.pixels, stride);
    std::vector<Behind> behind;
    for (const nb::handle& pair : transposed) {
      const auto& back = nb::cast<const Weights&>(pair[0]);
      const auto& steps = nb::cast<const Steps&>(pair[1]);
      expect(steps.x_step == 1 && steps.out_step == stride, "the transposed weights go by other strides");
      const Plan plan(gradient, out, back, steps, lanes());
      expect(plan.extent.height == made.extent.height && plan.extent.width == made.extent.width,
             "each place among the strides has as many pixels as the outputs");
      given.first_row = std::min(given.first_row, plan.x.first_row);
      given.last_row = std::max(given.last_row, plan.x.last_row);
      behind.push_back({back.list(), plan.shift});
    }
    std::vector<double> partial(static_cast<size_t>(of(out)->parts(made.extent) * out.extent.channels * 2));
    expect_sums(sums, out.extent);
    Mask mask = masking ? masking->mask(out) : Mask{};
    mask.input = stepped(mask.input, stride);
    if (add) expect_alike(*add, out);
    {
      nb::gil_scoped_release others_may_run;
      of(out)->backward(forward.x, given, weights.list(), gradients.data(), made.extent, to,
                       add ? add->pixels.data : nullptr, {behind.data(), static_cast<int64_t>(behind.size())},
                       out.extent.channels, masking ? &mask : nullptr,
                       partial.data(), threads);
    }
    if (masking) add_up(partial, out.extent.channels, sums);
  }

  void affine(const Activation& x, const Activation& out, const Floats& scale, const Floats& shift, int threads) const {
    expect_alike(x, out), expect_channels(scale, x.extent), expect_channels(shift, x.extent);
    nb::gil_scoped_release others_may_run;
    of(out)->affine(x.pixels, out.pixels, scale.data(), shift.data(), x.extent, threads);
  }

  void affine_relu(const Activation& x, const Activation& out, const Floats& scale, const Floats& shift,
                   int threads) const {
    expect_alike(x, out), expect_channels(scale, x.extent), expect_channels(shift, x.extent);
    nb::gil_scoped_release others_may_run;
    of(out)->affine_relu(x.pixels, out.pixels, scale.data(), shift.data(), x.extent, threads);
  }

  void combine(const Activation& gradient, const Activation& x, const Activation& out, const Activation* add,
               const Floats& by_gradient, const Floats& by_x, const Floats& constant, int threads) const {
    expect_alike(gradient, out), expect_alike(x, out);
    if (add) expect_alike(*add, out);
    for (const Floats* vector : {&by_gradient, &by_x, &constant}) expect_channels(*vector, out.extent);
    nb::gil_scoped_release others_may_run;
    of(out)->combine(gradient.pixels, x.pixels, out.pixels, add ? add->pixels.data : nullptr, by_gradient.data(),
                    by_x.data(), constant.data(), out.extent, threads);
  }

  void masked(const Activation& gradient, const Activation& out, const Masking& masking, const Sums& sums,
              int threads) const {
    expect_alike(gradient, out);
    std::vector<double> partial = room(out.extent, sums);
    const Mask mask = masking.mask(out);
    {
      nb::gil_scoped_release others_may_run;
      of(out)->masked(gradient.pixels, out.pixels, mask, out.extent, partial.data(), threads);
    }
    add_up(partial, out.extent.channels, sums);
  }

  void moments(const Activation& x, const Floats& about, const Sums& sums, int threads) const {
    expect_lanes(x), expect_channels(about, x.extent);
    std::vector<double> partial = room(x.extent, sums);
    {
      nb::gil_scoped_release others_may_run;
      of(x)->moments(x.pixels, about.data(), x.extent, partial.data(), threads);
    }
    add_up(partial, x.extent.channels, sums);
  }

  void products(const Activation& gradient, const Activation& x, const Floats& mean, const Sums& sums,
                int threads) const {
    expect_alike(gradient, x), expect_channels(mean, x.extent);
    std::vector<double> partial = room(x.extent, sums);
    {
      nb::gil_scoped_release others_may_run;
      of(x)->products(gradient.pixels, x.pixels, mean.data(), x.extent, partial.data(), threads);
    }
    add_up(partial, x.extent.channels, sums);
  }

  void pool(const Activation& x, const Activation& features, int threads) const {
    expect_pooled(x, features);
    nb::gil_scoped_release others_may_run;
    of(x)->pool(x.pixels, static_cast<float*>(features.pixels.data), x.extent, threads);
  }

  void spread(const Activation& features, const Activation& out, const Activation* add, int threads) const {
    expect_pooled(out, features);
    if (add) expect_alike(*add, out);
    nb::gil_scoped_release others_may_run;
    of(out)->spread(static_cast<const float*>(features.pixels.data), out.pixels, add ? add->pixels.data : nullptr,
                    out.extent, threads);
  }

  void pack(const Images& images, const Activation& out, int threads) const {
    const auto [pixels, extent] = packable(out, images);
    const Strided source = strided(const_cast<float*>(images.data()), images);
    nb::gil_scoped_release others_may_run;
    of(out)->pack(source, pixels, extent, threads);
  }

  void unpack(const Activation& x, const WrittenImages& images, int threads) const {
    const auto [pixels, extent] = packable(x, images);
    const Strided target = strided(images.data(), images);
    nb::gil_scoped_release others_may_run;
    of(x)->unpack(pixels, target, extent, threads);
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
    return std::vector<double>(static_cast<size_t>(tables_.floats->parts(extent) * extent.channels * 2));
  }

  const void* started(const Activation& out, const Activation* add, const Plan& plan) const {
    if (!add) return nullptr;
    expect_alike(*add, out);
    return beyond(add->pixels.data, plan.shift, add->bytes());
  }

  // Those for what this buffer has.
  const Kernels* of(const Activation& x) const {
    return x.bytes() == tables_.floats->bytes ? tables_.floats : tables_.halves;
  }

  Tables tables_;
};

}  // namespace sparsecore
