// The kernels for Python.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include "bound.hpp"

using namespace nanobind::literals;
namespace nb = nanobind;

namespace sparsecore {

void add_lists(nb::module_& module);
void add_rows(nb::module_& module);

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
      .def("backward", &Bound::backward, "x"_a, "gradient"_a, "weights"_a, "stride"_a, "gradients"_a.noconvert(),
           "out"_a, "add"_a.none(), "transposed"_a, "mask"_a.none(), "sums"_a.noconvert(), "threads"_a)
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
  add_lists(module);
  add_rows(module);
  module.attr("BUNDLE") = BUNDLE;
}
