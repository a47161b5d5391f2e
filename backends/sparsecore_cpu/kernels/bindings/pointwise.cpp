// Functions of each entry of an activation, for Python.
#include <nanobind/nanobind.h>

#include <optional>
#include <vector>

#include "bindings/passes.hpp"

using namespace nanobind::literals;

namespace sparsecore {
namespace {

const PointwiseKernels& kernels_of(const Bindings& kernels, PointwiseFunction function, const Activation& x) {
  return pointwise_table_for(kernels, x).functions[static_cast<int>(function)];
}

void pointwise(const Bindings& kernels, PointwiseFunction function, float parameter, const Activation& x,
               const Activation& out, const Activation* add, nb::handle given_scale, nb::handle given_shift,
               Integer given_threads) {
  const int threads = thread_count(given_threads);
  require_pixelwise(kernels, x, out);
  const void* start = start_of(kernels, add, out);
  const ReadonlyFloats scale = factor_by_channel("scale", given_scale, out);
  const ReadonlyFloats shift = factor_by_channel("shift", given_shift, out);
  const PointwiseParams params{x.view, out.view, start, scale.data(), shift.data(), parameter, out.extent, threads};
  nb::gil_scoped_release release;
  kernels_of(kernels, function, out).forward(params);
}

void pointwise_backward(const Bindings& kernels, PointwiseFunction function, float parameter,
                        const Activation& gradient, const Activation& x, const Activation& out, const Activation* add,
                        nb::handle given_scale, nb::handle given_shift, nb::handle given_mean, nb::handle given_sums,
                        Integer given_threads) {
  const int threads = thread_count(given_threads);
  require_pixelwise(kernels, gradient, out), require_pixelwise(kernels, x, out);
  const void* start = start_of(kernels, add, out);
  const ReadonlyFloats scale = factor_by_channel("scale", given_scale, out);
  const ReadonlyFloats shift = factor_by_channel("shift", given_shift, out);
  const ReadonlyFloats mean = factor_by_channel("mean", given_mean, out);
  std::optional<Sums> sums;
  std::vector<double> partial;
  const PointwiseTable& table = pointwise_table_for(kernels, out);
  if (!given_sums.is_none()) {
    sums.emplace("sums", given_sums);
    require_sums(*sums, out.extent.channels);
    require_disjoint(sums->memory(),
                     {gradient.memory(), x.memory(), out.memory(), scale.memory(), shift.memory(), mean.memory()});
    if (add) require_disjoint(sums->memory(), {add->memory()});
    partial.resize(static_cast<size_t>(table.part_count(out.extent) * out.extent.channels * 2));
  }
  const PointwiseParams forward{x.view, out.view, start, scale.data(), shift.data(), parameter, out.extent, threads};
  const PointwiseBackwardParams params{forward, gradient.view, mean.data(), sums ? partial.data() : nullptr};
  {
    nb::gil_scoped_release release;
    kernels_of(kernels, function, out).backward(params);
  }
  if (sums) add_up(partial, *sums);
}

}  // namespace

void add_pointwise(nb::module_& module, nb::class_<Bindings>& kernels) {
  nb::enum_<PointwiseFunction>(module, "PointwiseFunction", "A function that is applied to each entry.")
      .value("RELU6", PointwiseFunction::RELU6)
      .value("LEAKY_RELU", PointwiseFunction::LEAKY_RELU, "The parameter is the slope below zero.")
      .value("SILU", PointwiseFunction::SILU)
      .value("GELU", PointwiseFunction::GELU)
      .value("GELU_TANH", PointwiseFunction::GELU_TANH, "The approximation of GELU by tanh.")
      .value("HARDSWISH", PointwiseFunction::HARDSWISH)
      .value("HARDSIGMOID", PointwiseFunction::HARDSIGMOID)
      .value("SIGMOID", PointwiseFunction::SIGMOID)
      .value("TANH", PointwiseFunction::TANH)
      .value("ELU", PointwiseFunction::ELU, "The parameter is alpha.")
      .value("SOFTPLUS", PointwiseFunction::SOFTPLUS, "The parameter is beta.")
      .value("MISH", PointwiseFunction::MISH);
  kernels
      .def("pointwise", &pointwise, "function"_a, "parameter"_a, "x"_a, "out"_a, "add"_a.none(), "scale"_a.none(),
           "shift"_a.none(), "threads"_a,
           "Computes out = function(scale·x + shift) + add; scale and shift are by channel.",
           nb::sig("def pointwise(self, function: PointwiseFunction, parameter: float, x: Activation, out: Activation, "
                   "add: Activation | None, scale: " FLOATS ", shift: " FLOATS ", threads: int) -> None"))
      .def("pointwise_backward", &pointwise_backward, "function"_a, "parameter"_a, "gradient"_a, "x"_a, "out"_a,
           "add"_a.none(), "scale"_a.none(), "shift"_a.none(), "mean"_a.none(), "sums"_a.none(), "threads"_a,
           R"(Computes out = gradient·function'(scale·x + shift) + add.

The sums are those of out and out·(x − mean).)",
           nb::sig("def pointwise_backward(self, function: PointwiseFunction, parameter: float, gradient: Activation, "
                   "x: Activation, out: Activation, add: Activation | None, scale: " FLOATS ", shift: " FLOATS
                   ", mean: " FLOATS ", sums: " SUMS " | None, threads: int) -> None"));
}

}  // namespace sparsecore
