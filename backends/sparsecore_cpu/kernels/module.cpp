// The kernels for Python.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include "bound.hpp"
#include "pool.hpp"

using namespace nanobind::literals;
namespace nb = nanobind;

namespace sparsecore {

void add_lists(nb::module_& module);
void add_rows(nb::module_& module);

namespace {

// A copy's numbers, for reading, with no copy made; they live as long as anybody looks at them.
nb::ndarray<nb::numpy, const int32_t, nb::ndim<1>> view(const Copy& copy) {
  const nb::capsule owner(new Copy(copy), [](void* held) noexcept { delete static_cast<Copy*>(held); });
  return {copy->data(), {copy->size()}, owner};
}

}  // namespace

}  // namespace sparsecore

NB_MODULE(_kernels, module) {
  using namespace sparsecore;
  module.doc() = "Sparse kernels on activations of (blocks, height, channels, width, lanes).";
  // who still holds kernels or buffers when Python ends has done nothing wrong
  nb::set_leak_warnings(false);
  nb::class_<Activation>(module, "Activation")
      .def(nb::init<nb::handle, Integer, Integer, bool>(), "buffer"_a.none(), "border"_a, "images"_a, "features"_a);
  nb::class_<Read>(module, "Read")
      .def(nb::init<const Activation&>(), "pixels"_a)
      .def_static("rectified", &Read::rectified, "pixels"_a, "scale"_a.none(), "shift"_a.none())
      .def_static("combined", &Read::combined, "pixels"_a, "other"_a, "scale"_a.none(), "by_other"_a.none(), "shift"_a.none());
  nb::class_<Weights>(module, "Weights")
      .def(nb::init<nb::handle, nb::handle, nb::handle, Integer, bool>(), "pointers"_a.none(), "offsets"_a.none(), "values"_a.none(),
           "channels"_a, "bundled"_a = false)
      .def_prop_ro("pointers", [](const Weights& weights) { return view(weights.pointers); }, nb::rv_policy::automatic)
      .def_prop_ro("offsets", [](const Weights& weights) { return view(weights.offsets); },
                   nb::rv_policy::automatic);
  nb::class_<Masking>(module, "Mask")
      .def(nb::init<const Activation&, nb::handle, nb::handle, nb::handle>(), "input"_a, "scale"_a.none(), "shift"_a.none(),
           "mean"_a.none());
  nb::class_<Steps>(module, "Steps")
      .def("__init__", [](Steps* self, Integer x_step, Integer out_step, Integer row, Integer column) {
             new (self) Steps(x_step, out_step, row, column);
           }, "x_step"_a = 1, "out_step"_a = 1, "row"_a = 0, "column"_a = 0);
  nb::class_<Bound>(module, "Kernels")
      .def(nb::init<const std::string&>(), "name"_a = "")
      .def_prop_ro("name", &Bound::name)
      .def_prop_ro("lanes", &Bound::lanes)
      .def("convolve", &Bound::convolve, "x"_a, "out"_a, "add"_a.none(), "weights"_a, "steps"_a,
           "sums"_a.none(), "threads"_a)
      .def("convolve_masked", &Bound::convolve_masked, "x"_a, "out"_a, "add"_a.none(), "weights"_a, "steps"_a, "mask"_a,
           "sums"_a.none(), "threads"_a)
      .def("weight_gradient", &Bound::weight_gradient, "x"_a, "gradient"_a, "weights"_a, "steps"_a,
           "gradients"_a.none(), "threads"_a)
      .def("backward", &Bound::backward, "x"_a, "gradient"_a, "weights"_a, "stride"_a, "gradients"_a.none(),
           "out"_a, "add"_a.none(), "transposed"_a, "mask"_a.none(), "sums"_a.none(), "threads"_a)
      .def("affine", &Bound::affine, "x"_a, "out"_a, "scale"_a.none(), "shift"_a.none(), "threads"_a)
      .def("affine_relu", &Bound::affine_relu, "x"_a, "out"_a, "scale"_a.none(), "shift"_a.none(), "threads"_a)
      .def("combine", &Bound::combine, "gradient"_a, "x"_a, "out"_a, "add"_a.none(), "by_gradient"_a.none(), "by_x"_a.none(), "constant"_a.none(), "threads"_a)
      .def("masked", &Bound::masked, "gradient"_a, "out"_a, "mask"_a, "sums"_a.none(), "threads"_a)
      .def("moments", &Bound::moments, "x"_a, "about"_a.none(), "sums"_a.none(), "threads"_a)
      .def("products", &Bound::products, "gradient"_a, "x"_a, "mean"_a.none(), "sums"_a.none(), "threads"_a)
      .def("pool", &Bound::pool, "x"_a, "features"_a, "threads"_a)
      .def("spread", &Bound::spread, "features"_a, "out"_a, "add"_a.none(), "threads"_a)
      .def("pack", &Bound::pack, "images"_a.none(), "out"_a, "threads"_a)
      .def("unpack", &Bound::unpack, "x"_a, "images"_a.none(), "threads"_a);
  add_lists(module);
  add_rows(module);
  module.def("_fail_scratch", [](Integer after) { scratch_left = after; }, "after"_a,
             "For tests: after so many more tasks one gets no scratch memory.");
  module.attr("BUNDLE") = BUNDLE;
}
