// The kernels for one instruction set as methods of a Python class. Each method checks its arguments, releases the
// interpreter's lock and calls the kernel.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/plan.hpp"
#include "runtime/dispatch.hpp"

namespace sparsecore {

class Bindings {
 public:
  explicit Bindings(const std::string& name) : name_(found_name(name.c_str())), tables_(find_kernels(name.c_str())) {
    if (!tables_.float32) throw std::invalid_argument("this processor has no kernels named '" + name + "'");
  }

  const char* name() const { return name_; }
  int lanes() const { return tables_.float32->lanes; }

  void convolve(const Input& x, const Activation& out, const Activation* add, const Weights& weights,
                const Steps& steps, nb::handle given_sums, Integer given_threads) const {
    const int threads = thread_count(given_threads);
    const Plan plan(x, out, weights, steps, lanes());
    std::optional<Sums> sums;
    if (!given_sums.is_none()) sums.emplace("sums", given_sums);
    if (sums) require_sums(*sums, out.extent);
    require_output(x, out, add, weights);
    if (sums) require_sums_disjoint(*sums, x, out, weights);
    if (plan.empty()) return;
    const ConvolutionParams params = plan.params(add, threads);
    std::vector<double> partial = sums ? partial_sums(plan.extent) : std::vector<double>{};
    {
      nb::gil_scoped_release release;
      table_for(out)->convolve(params, sums ? partial.data() : nullptr);
    }
    if (sums) add_up(partial, *sums);
  }

  void convolve_masked(const Input& x, const Activation& out, const Activation* add, const Weights& weights,
                       const Steps& steps, const Mask& given_mask, nb::handle given_sums, Integer given_threads) const {
    const int threads = thread_count(given_threads);
    const Plan plan(x, out, weights, steps, lanes());
    const Sums sums("sums", given_sums);
    require_sums(sums, out.extent);
    require_output(x, out, add, weights);
    require_sums_disjoint(sums, x, out, weights);
    ReluMask mask = given_mask.mask_of(out);
    if (plan.empty()) return;
    const ConvolutionParams params = plan.params(add, threads);
    std::vector<double> partial = partial_sums(plan.extent);
    mask.input = every(mask.input, plan.out_step);
    mask.input.data = advance(mask.input.data, plan.out_offset, out.value_bytes());
    {
      nb::gil_scoped_release release;
      table_for(out)->convolve_masked(params, mask, partial.data());
    }
    add_up(partial, sums);
  }

  void weight_gradient(const Input& x, const Input& gradient, const Weights& weights, const Steps& steps,
                       nb::handle given_gradients, Integer given_threads) const {
    const int threads = thread_count(given_threads);
    require(steps.are_all_outputs(), "a gradient is of all outputs");
    const Floats gradients = gradients_of(weights, given_gradients);
    const Plan plan(x, gradient.pixels, weights, steps, lanes());
    x.require_disjoint_from(gradients.memory()), gradient.require_disjoint_from(gradients.memory());
    const WeightGradientParams params{
        plan.x, gradient.convolution_input(1, 1), plan.list, gradients.data(), plan.extent, threads};
    nb::gil_scoped_release release;
    table_for(x.pixels)->weight_gradient(params);
  }

  void backward(const Input& x, const Input& gradient, const Weights& weights, Integer stride,
                nb::handle given_gradients, const Activation& out, const Activation* add,
                const nb::sequence& given_transposed, const Mask* given_mask, nb::handle given_sums,
                Integer given_threads) const {
    const int threads = thread_count(given_threads);
    const Activation& outputs = gradient.pixels;
    const Step step{stride, stride};
    const Floats gradients = gradients_of(weights, given_gradients);
    const Plan forward(x, outputs, weights, Steps{step, {1, 1}, 0, 0}, lanes());
    ConvolutionInput read_gradient = gradient.convolution_input(1, 1);
    const ActivationView strided_out = every(out.view, step);
    std::vector<Weights> held;  // a sequence need not keep the objects alive that it returns
    std::vector<Plan> plans;
    std::vector<TransposedWeights> transposed;
    bool reads_own_pixels = static_cast<bool>(forward.own_pixel);
    for (const nb::handle& pair : given_transposed) {
      const auto [back, steps] = weights_and_steps(pair);
      require(steps.x.is(1) && steps.out == step, "the transposed weights go by other strides");
      const Plan plan(gradient, out, back, steps, lanes());
      require(plan.extent.height == outputs.extent.height && plan.extent.width == outputs.extent.width,
              "each place among the strides has as many pixels as the outputs");
      require_output(gradient, out, add, back);
      require_disjoint(gradients.memory(), {back.values.memory()});
      read_gradient.first_row = std::min(read_gradient.first_row, plan.x.first_row);
      read_gradient.last_row = std::max(read_gradient.last_row, plan.x.last_row);
      reads_own_pixels = reads_own_pixels && plan.reads_own_pixels();
      held.push_back(back), plans.push_back(plan);
      transposed.push_back({plan.list, plan.out_offset});
    }
    require(static_cast<int64_t>(transposed.size()) == stride * stride,
            "there is one list of transposed weights for each place among the strides");
    const Sums sums("sums", given_sums);
    require_sums(sums, out.extent);
    require_output(x, out, add, weights);
    for (const Input* input : {&x, &gradient}) {
      input->require_disjoint_from(gradients.memory());
      require_sums_disjoint(sums, *input, out, weights);
    }
    require_disjoint(gradients.memory(), {sums.memory(), out.memory()});
    if (add) require_disjoint(gradients.memory(), {add->memory()});
    std::vector<double> partial(sum_count(outputs.extent, out.extent.channels));
    ReluMask mask = given_mask ? given_mask->mask_of(out) : ReluMask{};
    mask.input = every(mask.input, step);
    BackwardParams params{};
    params.x = forward.x, params.gradient = read_gradient;
    params.weights = forward.list, params.weight_gradients = gradients.data();
    if (!reads_own_pixels) params.weights.channels = nullptr;
    params.extent = outputs.extent;
    params.out = strided_out, params.add = add ? add->view.data : nullptr;
    params.transposed = {transposed.data(), static_cast<int64_t>(transposed.size())};
    params.input_channels = out.extent.channels;
    params.mask = given_mask ? &mask : nullptr, params.sums = partial.data();
    params.threads = threads;
    {
      nb::gil_scoped_release release;
      table_for(out)->backward(params);
    }
    if (given_mask) add_up(partial, sums);
  }

  void affine(const Activation& x, const Activation& out, nb::handle scale, nb::handle shift, Integer threads) const {
    affine_with(&KernelTable::affine, x, out, scale, shift, threads);
  }

  void affine_relu(const Activation& x, const Activation& out, nb::handle scale, nb::handle shift,
                   Integer threads) const {
    affine_with(&KernelTable::affine_relu, x, out, scale, shift, threads);
  }

  void combine(const Activation& gradient, const Activation& x, const Activation& out, const Activation* add,
               nb::handle given_gradient_scale, nb::handle given_x_scale, nb::handle given_constant,
               Integer given_threads) const {
    const int threads = thread_count(given_threads);
    require_pixelwise(gradient, out), require_pixelwise(x, out);
    if (add) require_pixelwise(*add, out);
    const ReadonlyFloats gradient_scale = channel_factor("gradient_scale", given_gradient_scale, out);
    const ReadonlyFloats x_scale = channel_factor("x_scale", given_x_scale, out);
    const ReadonlyFloats constant = channel_factor("constant", given_constant, out);
    const void* start = add ? add->view.data : nullptr;
    const CombineParams params{gradient.view,  x.view,          out.view,   start,  gradient_scale.data(),
                               x_scale.data(), constant.data(), out.extent, threads};
    nb::gil_scoped_release release;
    table_for(out)->combine(params);
  }

  void relu_backward(const Activation& gradient, const Activation& out, const Mask& given_mask, nb::handle given_sums,
                     Integer given_threads) const {
    const int threads = thread_count(given_threads);
    require_pixelwise(gradient, out);
    const ReluMask mask = given_mask.mask_of(out);
    const Sums sums("sums", given_sums);
    require_disjoint(sums.memory(), {gradient.memory(), out.memory(), given_mask.input.memory()});
    sum_up(sums, out.extent, [&](double* partial) {
      table_for(out)->relu_backward(gradient.view, out.view, mask, out.extent, partial, threads);
    });
  }

  void moments(const Activation& x, nb::handle given_about, nb::handle given_sums, Integer given_threads) const {
    const int threads = thread_count(given_threads);
    require_lanes(x);
    const ReadonlyFloats about = by_channel("about", given_about, x.extent);
    const Sums sums("sums", given_sums);
    require_disjoint(sums.memory(), {x.memory(), about.memory()});
    sum_up(sums, x.extent,
           [&](double* partial) { table_for(x)->moments(x.view, about.data(), x.extent, partial, threads); });
  }

  void gradient_sums(const Activation& gradient, const Activation& x, nb::handle given_mean, nb::handle given_sums,
                     Integer given_threads) const {
    const int threads = thread_count(given_threads);
    require_lanes(x), require_same_layout(gradient, x);
    const ReadonlyFloats mean = by_channel("mean", given_mean, x.extent);
    const Sums sums("sums", given_sums);
    require_disjoint(sums.memory(), {gradient.memory(), x.memory(), mean.memory()});
    sum_up(sums, x.extent, [&](double* partial) {
      table_for(x)->gradient_sums(gradient.view, x.view, mean.data(), x.extent, partial, threads);
    });
  }

  void pool(const Activation& x, const Activation& features, Integer given_threads) const {
    const int threads = thread_count(given_threads);
    require_pooled(x, features);
    nb::gil_scoped_release release;
    table_for(x)->pool(x.view, static_cast<float*>(features.view.data), x.extent, threads);
  }

  void pool_backward(const Activation& features, const Activation& out, const Activation* add,
                     Integer given_threads) const {
    const int threads = thread_count(given_threads);
    require_pooled(out, features);
    if (add) require_pixelwise(*add, out);
    nb::gil_scoped_release release;
    table_for(out)->pool_backward(static_cast<const float*>(features.view.data), out.view,
                                  add ? add->view.data : nullptr, out.extent, threads);
  }

  void pack(nb::handle given_images, const Activation& out, Integer given_threads) const {
    const int threads = thread_count(given_threads);
    const ReadonlyImages images("images", given_images);
    const auto [own, extent] = blocks_of_images(out, images);
    require_disjoint(out.memory(), {images.memory()});
    const ImageView view = image_view(const_cast<float*>(images.data()), images);
    nb::gil_scoped_release release;
    table_for(out)->pack(view, own, extent, threads);
  }

  void unpack(const Activation& x, nb::handle given_images, Integer given_threads) const {
    const int threads = thread_count(given_threads);
    const Images images("images", given_images);
    const auto [own, extent] = blocks_of_images(x, images);
    require_distinct_entries(images);
    require_disjoint(images.memory(), {x.memory()});
    const ImageView view = image_view(images.data(), images);
    nb::gil_scoped_release release;
    table_for(x)->unpack(own, view, extent, threads);
  }

 private:
  void require_lanes(const Activation& x) const {
    require(x.lanes() == lanes(), "the buffer has another number of lanes than the kernels");
  }

  // Each pixel of `out` is computed from the same one of `x`.
  void require_pixelwise(const Activation& x, const Activation& out) const {
    require_lanes(out), require_same_layout(x, out), require_disjoint_or_same(out, x);
  }

  // A convolution writes `out`, and reads the others.
  void require_output(const Input& x, const Activation& out, const Activation* add, const Weights& weights) const {
    x.require_disjoint_from(out.memory());
    require_disjoint(out.memory(), {weights.values.memory()});
    if (add) require_pixelwise(*add, out);
  }

  static void require_sums(const Sums& sums, const Extent& extent) {
    require(sums.length(0) == extent.channels && sums.length(1) == 2, "sums are (channels, 2)");
  }

  static void require_sums_disjoint(const Sums& sums, const Input& x, const Activation& out, const Weights& weights) {
    x.require_disjoint_from(sums.memory());
    require_disjoint(sums.memory(), {out.memory(), weights.values.memory()});
  }

  void require_pooled(const Activation& x, const Activation& features) const {
    require_lanes(x), require_lanes(features);
    require(features.extent.features && features.extent.channels == x.extent.channels &&
                features.extent.width == x.extent.blocks && features.extent.last_lanes == x.extent.last_lanes &&
                !x.extent.features,
            "the features are not those of the images");
    require_disjoint(features.memory(), {x.memory()});
  }

  // No two entries share memory: by ascending strides, each stride passes all entries along the axes before it.
  static void require_distinct_entries(const Images& images) {
    int axes[] = {0, 1, 2, 3};
    const auto stride = [&](int axis) { return std::abs(images.stride(axis)); };
    std::sort(axes, axes + 4, [&](int one, int other) { return stride(one) < stride(other); });
    int64_t width = 1;
    for (const int axis : axes) {
      if (images.length(axis) == 1) continue;
      require(stride(axis) >= width, "images are written to, but some of their entries share memory");
      width = checked_sum(width, checked_product(stride(axis), images.length(axis) - 1));
    }
  }

  // A pair of weights, and of the steps at which they make the gradient of the input.
  static std::pair<const Weights&, const Steps&> weights_and_steps(nb::handle pair) {
    const Weights* weights = nullptr;
    const Steps* steps = nullptr;
    require(nb::isinstance<nb::tuple>(pair) && nb::len(pair) == 2 && nb::try_cast(pair[0], weights) &&
                nb::try_cast(pair[1], steps) && weights && steps,
            "the transposed weights are pairs of weights and steps");
    return {*weights, *steps};
  }

  static Floats gradients_of(const Weights& weights, nb::handle given) {
    Floats gradients("gradients", given);
    require(gradients.length() == weights.values.length(), "there are not as many gradients as weights");
    require_disjoint(gradients.memory(), {weights.values.memory()});
    return gradients;
  }

  // A vector by channel that the output does not overlap.
  static ReadonlyFloats channel_factor(const char* name, nb::handle given, const Activation& out) {
    ReadonlyFloats vector = by_channel(name, given, out.extent);
    require_disjoint(out.memory(), {vector.memory()});
    return vector;
  }

  template <class AnArray>
  static ImageView image_view(float* data, const AnArray& images) {
    return {data, images.stride(0), images.stride(1), images.stride(2), images.stride(3)};
  }

  // An activation as blocks of images; features are images of one pixel.
  template <class AnArray>
  std::pair<ActivationView, Extent> blocks_of_images(const Activation& own, const AnArray& images) const {
    require_lanes(own);
    ActivationView view = own.view;
    Extent extent = own.extent;
    if (extent.features) {
      extent.blocks = extent.width, extent.width = 1, extent.features = false;
      view.block_stride = view.pixel_stride;
    }
    const int64_t count = (extent.blocks - 1) * lanes() + extent.last_lanes;
    const int64_t shape[] = {count, extent.height, extent.width, extent.channels};
    for (int axis = 0; axis < 4; axis++)
      require(images.length(axis) == shape[axis], "the images do not fit into the buffer");
    return {view, extent};
  }

  using AffineKernel = decltype(KernelTable::affine);

  void affine_with(AffineKernel KernelTable::* kernel, const Activation& x, const Activation& out,
                   nb::handle given_scale, nb::handle given_shift, Integer given_threads) const {
    const int threads = thread_count(given_threads);
    require_pixelwise(x, out);
    const ReadonlyFloats scale = channel_factor("scale", given_scale, out);
    const ReadonlyFloats shift = channel_factor("shift", given_shift, out);
    const AffineParams params{x.view, out.view, scale.data(), shift.data(), x.extent, threads};
    nb::gil_scoped_release release;
    (table_for(out)->*kernel)(params);
  }

  // Two sums for each channel and each part of the work.
  size_t sum_count(const Extent& extent, int64_t channels) const {
    return static_cast<size_t>(tables_.float32->part_count(extent) * channels * 2);
  }

  std::vector<double> partial_sums(const Extent& extent) const {
    return std::vector<double>(sum_count(extent, extent.channels));
  }

  // Adds the partial sums of all parts to `sums`, part by part.
  static void add_up(const std::vector<double>& partial, const Sums& sums) {
    const size_t count = static_cast<size_t>(2 * sums.length(0));
    for (size_t part = 0; part < partial.size() / count; part++)
      for (size_t i = 0; i < count; i++) sums.data()[i] += partial[part * count + i];
  }

  // Adds the partial sums that compute(partial) makes.
  template <class Compute>
  void sum_up(const Sums& sums, const Extent& extent, Compute compute) const {
    require_sums(sums, extent);
    std::vector<double> partial = partial_sums(extent);
    {
      nb::gil_scoped_release release;
      compute(partial.data());
    }
    add_up(partial, sums);
  }

  // The kernels for the type of the buffer's values.
  const KernelTable* table_for(const Activation& x) const {
    return x.value_bytes() == tables_.float32->value_bytes ? tables_.float32 : tables_.bfloat16;
  }

  const char* name_;
  KernelTables tables_;
};

}  // namespace sparsecore
