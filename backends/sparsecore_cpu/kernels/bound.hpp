// The kernels for one instruction set, as Python calls them.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <optional>
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
  expect(sums.length(0) == extent.channels && sums.length(1) == 2, "sums are (channels, 2)");
}

class Bound {
 public:
  explicit Bound(const std::string& name) : tables_(kernels(name.c_str())) {
    if (!tables_.floats || (!name.empty() && name != tables_.floats->name))
      throw std::invalid_argument("this processor has no kernels named '" + name + "'");
  }

  const char* name() const { return tables_.floats->name; }
  int lanes() const { return tables_.floats->lanes; }

  void convolve(const Read& x, const Activation& out, const Activation* add, const Weights& weights,
                const Steps& steps, nb::handle given_sums, Integer given_threads) const {
    const int threads = thread_count(given_threads);
    const Plan plan(x, out, weights, steps, lanes());
    std::optional<Sums> sums;
    if (!given_sums.is_none()) sums.emplace("sums", given_sums);
    if (sums) expect_sums(*sums, out.extent);
    expect_written(x, out, add, weights);
    if (sums) expect_not_among(sums->span(), x, out, weights);
    if (plan.empty()) return;
    std::vector<double> partial = room(plan.extent, sums.has_value());
    const void* more = add ? beyond(add->pixels.data, plan.shift, add->bytes()) : nullptr;
    {
      nb::gil_scoped_release others_may_run;
      of(out)->convolve(plan.x, plan.out, more, weights.list(), plan.extent, sums ? partial.data() : nullptr, threads);
    }
    if (sums) add_up(partial, plan.extent.channels, *sums);
  }

  void convolve_masked(const Read& x, const Activation& out, const Activation* add, const Weights& weights,
                       const Steps& steps, const Masking& masking, nb::handle given_sums, Integer given_threads) const {
    const int threads = thread_count(given_threads);
    const Plan plan(x, out, weights, steps, lanes());
    const Sums sums("sums", given_sums);
    expect_sums(sums, out.extent);
    expect_written(x, out, add, weights);
    expect_not_among(sums.span(), x, out, weights);
    Mask mask = masking.mask(out);
    if (plan.empty()) return;
    std::vector<double> partial = room(plan.extent, true);
    mask.input = stepped(mask.input, plan.out_step);
    mask.input.data = beyond(mask.input.data, plan.shift, out.bytes());
    const void* more = add ? beyond(add->pixels.data, plan.shift, add->bytes()) : nullptr;
    {
      nb::gil_scoped_release others_may_run;
      of(out)->convolve_masked(plan.x, plan.out, more, weights.list(), plan.extent, mask, partial.data(), threads);
    }
    add_up(partial, plan.extent.channels, sums);
  }

  void weight_gradient(const Read& x, const Read& gradient, const Weights& weights, const Steps& steps,
                       nb::handle given_gradients, Integer given_threads) const {
    const int threads = thread_count(given_threads);
    expect(steps.out_step == 1 && steps.row == 0 && steps.column == 0, "a gradient is of all outputs");
    const Floats gradients = of_weights(given_gradients, weights);
    const Plan plan(x, gradient.pixels, weights, steps, lanes());
    x.expect_apart_from(gradients.span()), gradient.expect_apart_from(gradients.span());
    const Input given = gradient.input(1);
    nb::gil_scoped_release others_may_run;
    of(x.pixels)->weight_gradient(plan.x, given, weights.list(), gradients.data(), plan.extent, threads);
  }

  // `transposed`: pairs of weights and the steps at which they make the inputs' gradient, one for each place among the
  // strides.
  void backward(const Read& x, const Read& gradient, const Weights& weights, Integer stride,
                nb::handle given_gradients, const Activation& out, const Activation* add, const nb::sequence& transposed,
                const Masking* masking, nb::handle given_sums, Integer given_threads) const {
    const int threads = thread_count(given_threads);
    const Activation& made = gradient.pixels;
    const Floats gradients = of_weights(given_gradients, weights);
    const Plan forward(x, made, weights, Steps{stride, 1, 0, 0}, lanes());
    Input given = gradient.input(1);
    const Pixels to = stepped(out.pixels, stride);
    std::vector<Weights> held;  // a sequence need not hold what it gives
    std::vector<Behind> behind;
    for (const nb::handle& pair : transposed) {
      const auto [back, steps] = behind_of(pair);
      expect(steps.x_step == 1 && steps.out_step == stride, "the transposed weights go by other strides");
      const Plan plan(gradient, out, back, steps, lanes());
      expect(plan.extent.height == made.extent.height && plan.extent.width == made.extent.width,
             "each place among the strides has as many pixels as the outputs");
      expect_written(gradient, out, add, back);
      expect_apart(gradients.span(), {back.values.span()});
      given.first_row = std::min(given.first_row, plan.x.first_row);
      given.last_row = std::max(given.last_row, plan.x.last_row);
      held.push_back(back);
      behind.push_back({back.list(), plan.shift});
    }
    expect(static_cast<int64_t>(behind.size()) == stride * stride,
           "there is one list of transposed weights for each place among the strides");
    const Sums sums("sums", given_sums);
    expect_sums(sums, out.extent);
    expect_written(x, out, add, weights);
    for (const Read* read : {&x, &gradient}) {
      read->expect_apart_from(gradients.span());
      expect_not_among(sums.span(), *read, out, weights);
    }
    expect_apart(gradients.span(), {sums.span(), out.span()});
    if (add) expect_apart(gradients.span(), {add->span()});
    std::vector<double> partial(static_cast<size_t>(of(out)->parts(made.extent) * out.extent.channels * 2));
    Mask mask = masking ? masking->mask(out) : Mask{};
    mask.input = stepped(mask.input, stride);
    {
      nb::gil_scoped_release others_may_run;
      of(out)->backward(forward.x, given, weights.list(), gradients.data(), made.extent, to,
                        add ? add->pixels.data : nullptr, {behind.data(), static_cast<int64_t>(behind.size())},
                        out.extent.channels, masking ? &mask : nullptr, partial.data(), threads);
    }
    if (masking) add_up(partial, out.extent.channels, sums);
  }

  void affine(const Activation& x, const Activation& out, nb::handle scale, nb::handle shift, Integer threads) const {
    by_pixel(&Kernels::affine, x, out, scale, shift, threads);
  }

  void affine_relu(const Activation& x, const Activation& out, nb::handle scale, nb::handle shift,
                   Integer threads) const {
    by_pixel(&Kernels::affine_relu, x, out, scale, shift, threads);
  }

  void combine(const Activation& gradient, const Activation& x, const Activation& out, const Activation* add,
               nb::handle given_by_gradient, nb::handle given_by_x, nb::handle given_constant,
               Integer given_threads) const {
    const int threads = thread_count(given_threads);
    expect_from(gradient, out), expect_from(x, out);
    if (add) expect_from(*add, out);
    const ReadFloats by_gradient = factor("by_gradient", given_by_gradient, out), by_x = factor("by_x", given_by_x, out),
                     constant = factor("constant", given_constant, out);
    nb::gil_scoped_release others_may_run;
    of(out)->combine(gradient.pixels, x.pixels, out.pixels, add ? add->pixels.data : nullptr, by_gradient.data(),
                     by_x.data(), constant.data(), out.extent, threads);
  }

  void masked(const Activation& gradient, const Activation& out, const Masking& masking, nb::handle given_sums,
              Integer given_threads) const {
    const int threads = thread_count(given_threads);
    expect_from(gradient, out);
    const Mask mask = masking.mask(out);
    const Sums sums("sums", given_sums);
    expect_apart(sums.span(), {gradient.span(), out.span(), masking.input.span()});
    summed(sums, out.extent, [&](double* partial) {
      of(out)->masked(gradient.pixels, out.pixels, mask, out.extent, partial, threads);
    });
  }

  void moments(const Activation& x, nb::handle given_about, nb::handle given_sums, Integer given_threads) const {
    const int threads = thread_count(given_threads);
    expect_lanes(x);
    const ReadFloats about = by_channel("about", given_about, x.extent);
    const Sums sums("sums", given_sums);
    expect_apart(sums.span(), {x.span(), about.span()});
    summed(sums, x.extent,
           [&](double* partial) { of(x)->moments(x.pixels, about.data(), x.extent, partial, threads); });
  }

  void products(const Activation& gradient, const Activation& x, nb::handle given_mean, nb::handle given_sums,
                Integer given_threads) const {
    const int threads = thread_count(given_threads);
    expect_lanes(x), expect_alike(gradient, x);
    const ReadFloats mean = by_channel("mean", given_mean, x.extent);
    const Sums sums("sums", given_sums);
    expect_apart(sums.span(), {gradient.span(), x.span(), mean.span()});
    summed(sums, x.extent, [&](double* partial) {
      of(x)->products(gradient.pixels, x.pixels, mean.data(), x.extent, partial, threads);
    });
  }

  void pool(const Activation& x, const Activation& features, Integer given_threads) const {
    const int threads = thread_count(given_threads);
    expect_pooled(x, features);
    nb::gil_scoped_release others_may_run;
    of(x)->pool(x.pixels, static_cast<float*>(features.pixels.data), x.extent, threads);
  }

  void spread(const Activation& features, const Activation& out, const Activation* add, Integer given_threads) const {
    const int threads = thread_count(given_threads);
    expect_pooled(out, features);
    if (add) expect_from(*add, out);
    nb::gil_scoped_release others_may_run;
    of(out)->spread(static_cast<const float*>(features.pixels.data), out.pixels, add ? add->pixels.data : nullptr,
                    out.extent, threads);
  }

  void pack(nb::handle given_images, const Activation& out, Integer given_threads) const {
    const int threads = thread_count(given_threads);
    const Images images("images", given_images);
    const auto [pixels, extent] = packable(out, images);
    expect_apart(out.span(), {images.span()});
    const Strided source = strided(const_cast<float*>(images.data()), images);
    nb::gil_scoped_release others_may_run;
    of(out)->pack(source, pixels, extent, threads);
  }

  void unpack(const Activation& x, nb::handle given_images, Integer given_threads) const {
    const int threads = thread_count(given_threads);
    const WrittenImages images("images", given_images);
    const auto [pixels, extent] = packable(x, images);
    expect_distinct(images);
    expect_apart(images.span(), {x.span()});
    const Strided target = strided(images.data(), images);
    nb::gil_scoped_release others_may_run;
    of(x)->unpack(pixels, target, extent, threads);
  }

 private:
  template <class Array>
  static Strided strided(float* data, const Array& images) {
    return {data, images.stride(0), images.stride(1), images.stride(2), images.stride(3)};
  }

  // Each pixel lies somewhere else: along axes by ascending strides, each is wider than all before together.
  static void expect_distinct(const WrittenImages& images) {
    int axes[] = {0, 1, 2, 3};
    const auto apart = [&](int axis) { return std::abs(images.stride(axis)); };
    std::sort(axes, axes + 4, [&](int one, int other) { return apart(one) < apart(other); });
    int64_t width = 1;
    for (const int axis : axes) {
      if (images.length(axis) == 1) continue;
      expect(apart(axis) >= width, "images are written to, but some of their entries share memory");
      width = sum_of(width, product_of(apart(axis), images.length(axis) - 1));
    }
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
      expect(images.length(axis) == shape[axis], "the images do not fit into the buffer");
    return {pixels, extent};
  }

  // Weights, and the steps at which they make the inputs' gradient.
  static std::pair<const Weights&, const Steps&> behind_of(nb::handle pair) {
    const Weights* weights = nullptr;
    const Steps* steps = nullptr;
    expect(nb::isinstance<nb::tuple>(pair) && nb::len(pair) == 2 && nb::try_cast(pair[0], weights) &&
               nb::try_cast(pair[1], steps) && weights && steps,
           "the transposed weights are pairs of weights and steps");
    return {*weights, *steps};
  }

  void expect_lanes(const Activation& x) const {
    expect(x.lanes() == lanes(), "the buffer has another number of lanes than the kernels");
  }

  // What is computed from `x` pixel by pixel.
  void expect_from(const Activation& x, const Activation& out) const {
    expect_lanes(out), expect_alike(x, out), expect_apart_or_same(out, x);
  }

  // What a convolution writes.
  void expect_written(const Read& x, const Activation& out, const Activation* add, const Weights& weights) const {
    x.expect_apart_from(out.span());
    expect_apart(out.span(), {weights.values.span()});
    if (add) expect_from(*add, out);
  }

  static void expect_not_among(const Span& sums, const Read& x, const Activation& out, const Weights& weights) {
    x.expect_apart_from(sums);
    expect_apart(sums, {out.span(), weights.values.span()});
  }

  void expect_pooled(const Activation& x, const Activation& features) const {
    expect_lanes(x), expect_lanes(features);
    expect(features.extent.features && features.extent.channels == x.extent.channels &&
               features.extent.width == x.extent.blocks && features.extent.last_lanes == x.extent.last_lanes &&
               !x.extent.features,
           "the features are not those of the images");
    expect_apart(features.span(), {x.span()});
  }

  // A vector by channel that no output is written over.
  static ReadFloats factor(const char* name, nb::handle given, const Activation& out) {
    ReadFloats vector = by_channel(name, given, out.extent);
    expect_apart(out.span(), {vector.span()});
    return vector;
  }

  static Floats of_weights(nb::handle given, const Weights& weights) {
    Floats gradients("gradients", given);
    expect(gradients.length() == weights.values.length(), "there are not as many gradients as weights");
    expect_apart(gradients.span(), {weights.values.span()});
    return gradients;
  }

  template <class Kernel>
  void by_pixel(Kernel Kernels::*kernel, const Activation& x, const Activation& out, nb::handle given_scale,
                nb::handle given_shift, Integer given_threads) const {
    const int threads = thread_count(given_threads);
    expect_from(x, out);
    const ReadFloats scale = factor("scale", given_scale, out), shift = factor("shift", given_shift, out);
    nb::gil_scoped_release others_may_run;
    (of(out)->*kernel)(x.pixels, out.pixels, scale.data(), shift.data(), x.extent, threads);
  }

  std::vector<double> room(const Extent& extent, bool wanted) const {
    if (!wanted) return {};
    return std::vector<double>(static_cast<size_t>(tables_.floats->parts(extent) * extent.channels * 2));
  }

  // Adds what `fill` leaves in the room for partial sums.
  template <class Fill>
  void summed(const Sums& sums, const Extent& extent, Fill fill) const {
    expect_sums(sums, extent);
    std::vector<double> partial = room(extent, true);
    {
      nb::gil_scoped_release others_may_run;
      fill(partial.data());
    }
    add_up(partial, extent.channels, sums);
  }

  // Those for what this buffer has.
  const Kernels* of(const Activation& x) const {
    return x.bytes() == tables_.floats->bytes ? tables_.floats : tables_.halves;
  }

  Tables tables_;
};

}  // namespace sparsecore
