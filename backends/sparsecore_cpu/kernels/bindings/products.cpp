// Products and sums of activations, and dropout, for Python.
#include <nanobind/nanobind.h>

#include "bindings/passes.hpp"

using namespace nanobind::literals;

namespace sparsecore {

template <>
struct DtypeName<uint8_t> {
  static constexpr const char* value = "uint8";
};

namespace {

using Kept = Array<const uint8_t, 5>;

#define KEPT "numpy.typing.NDArray[numpy.uint8]"

bool are_of_one_batch(const Activation& x, const Activation& y) {
  const auto blocks = [](const Activation& one) { return one.extent.features ? one.extent.width : one.extent.blocks; };
  return blocks(x) == blocks(y) && x.extent.last_lanes == y.extent.last_lanes && x.lanes() == y.lanes();
}

// The view of `y` as an activation of the form of `x`, with strides of zero where it is broadcast.
ActivationView broadcast_to(const Activation& x, const Activation& y) {
  require(are_of_one_batch(x, y), "both operands must be of batches of one size");
  ActivationView view = y.view;
  if (have_same_layout(x, y)) return view;
  const bool one_channel = y.extent.channels == 1;
  require(one_channel || y.extent.channels == x.extent.channels, "the second operand must have one channel or as many");
  if (one_channel) view.channel_stride = 0;
  if (y.extent.features) {
    if (!x.extent.features) view.block_stride = view.pixel_stride, view.pixel_stride = view.row_stride = 0;
    return view;
  }
  require(one_channel && !x.extent.features && x.value_bytes() == y.value_bytes() &&
              x.extent.height == y.extent.height && x.extent.width == y.extent.width,
          "the second operand must be of the first one's shape and border, features, or images of one channel");
  return view;
}

using ProductKernel = void (*)(const ProductParams& params);

void combine_pair(const Bindings& kernels, ProductKernel PointwiseTable::* as_stored,
                  ProductKernel PointwiseTable::* as_floats, const Activation& x, const Activation& y,
                  const Activation& out, const Activation* add, Integer given_threads) {
  const int threads = thread_count(given_threads);
  require_pixelwise(kernels, x, out);
  require_disjoint_or_same(out, y);
  const ProductParams params{x.view, broadcast_to(x, y), out.view, start_of(kernels, add, out), out.extent, threads};
  const PointwiseTable& table = pointwise_table_for(kernels, out);
  nb::gil_scoped_release release;
  (table.*(y.extent.features ? as_floats : as_stored))(params);
}

void multiply(const Bindings& kernels, const Activation& x, const Activation& y, const Activation& out,
              const Activation* add, Integer threads) {
  combine_pair(kernels, &PointwiseTable::multiply, &PointwiseTable::multiply_by_floats, x, y, out, add, threads);
}

void add_broadcast(const Bindings& kernels, const Activation& x, const Activation& y, const Activation& out,
                   const Activation* add, Integer threads) {
  combine_pair(kernels, &PointwiseTable::add, &PointwiseTable::add_floats, x, y, out, add, threads);
}

using ProductSumKernel = void (*)(const ProductSumParams& params);

void sum_products(const Bindings& kernels, ProductSumKernel PointwiseTable::* kernel, const Activation& x,
                  const Activation* y, const Activation& out, Integer given_threads) {
  const int threads = thread_count(given_threads);
  require_lanes(kernels, x);
  require(are_of_one_batch(x, out), "the sums must be of the input's batch");
  require_disjoint(out.memory(), {x.memory()});
  if (y) require_same_layout(x, *y), require_disjoint(out.memory(), {y->memory()});
  const ProductSumParams params{x.view, y ? &y->view : nullptr, out.view, x.extent, threads};
  const PointwiseTable& table = pointwise_table_for(kernels, x);
  nb::gil_scoped_release release;
  (table.*kernel)(params);
}

void sum_pixels(const Bindings& kernels, const Activation& x, const Activation* y, const Activation& out,
                Integer threads) {
  require(!x.extent.features && out.extent.features && out.extent.channels == x.extent.channels,
          "sums over pixels are of images, and are features with as many channels");
  sum_products(kernels, &PointwiseTable::sum_pixels, x, y, out, threads);
}

void sum_channels(const Bindings& kernels, const Activation& x, const Activation* y, const Activation& out,
                  Integer threads) {
  require(out.extent.channels == 1 && out.extent.features == x.extent.features &&
              out.value_bytes() == x.value_bytes() && out.extent.height == x.extent.height &&
              out.extent.width == x.extent.width,
          "sums over channels are of the input's shape with one channel");
  sum_products(kernels, &PointwiseTable::sum_channels, x, y, out, threads);
}

void dropout(const Bindings& kernels, const Activation& x, nb::handle given_kept, float factor, const Activation& out,
             const Activation* add, Integer given_threads) {
  const int threads = thread_count(given_threads);
  require_pixelwise(kernels, x, out);
  const Kept kept("kept", given_kept);
  const Extent& extent = x.extent;
  const int64_t shape[] = {extent.blocks, extent.height, extent.channels, extent.width, x.lanes()};
  for (int axis = 0; axis < 5; axis++)
    require(kept.length(axis) == shape[axis], "kept has one entry for each of the input inside the border");
  require_disjoint(out.memory(), {kept.memory()});
  const DropoutParams params{x.view, out.view, start_of(kernels, add, out), kept.data(), factor, extent, threads};
  const PointwiseTable& table = pointwise_table_for(kernels, out);
  nb::gil_scoped_release release;
  table.dropout(params);
}

}  // namespace

void add_products(nb::class_<Bindings>& kernels) {
  kernels
      .def("multiply", &multiply, "x"_a, "y"_a, "out"_a, "add"_a.none(), "threads"_a,
           R"(Computes out = x·y + add.

y has the layout of x, or is broadcast: features with one channel or as many, or images of one channel.)",
           nb::sig("def multiply(self, x: Activation, y: Activation, out: Activation, add: Activation | None, threads: "
                   "int) -> None"))
      .def("add", &add_broadcast, "x"_a, "y"_a, "out"_a, "add"_a.none(), "threads"_a,
           "Computes out = x + y + add; y is that of :meth:`multiply`.",
           nb::sig("def add(self, x: Activation, y: Activation, out: Activation, add: Activation | None, threads: int) "
                   "-> None"))
      .def("sum_pixels", &sum_pixels, "x"_a, "y"_a.none(), "out"_a, "threads"_a,
           "Computes the sums of x or, if there is a y, of x·y over height and width, as features.",
           nb::sig("def sum_pixels(self, x: Activation, y: Activation | None, out: Activation, threads: int) -> None"))
      .def(
          "sum_channels", &sum_channels, "x"_a, "y"_a.none(), "out"_a, "threads"_a,
          "Computes the sums of x or, if there is a y, of x·y over the channels, as an activation of one channel.",
          nb::sig("def sum_channels(self, x: Activation, y: Activation | None, out: Activation, threads: int) -> None"))
      .def("dropout", &dropout, "x"_a, "kept"_a.none(), "factor"_a, "out"_a, "add"_a.none(), "threads"_a,
           R"(Computes out = factor·x + add where ``kept`` is not zero, elsewhere add.

``kept`` is (blocks, height, channels, width, lanes); of features, blocks and height are 1, and the width counts
blocks of the batch.)",
           nb::sig("def dropout(self, x: Activation, kept: " KEPT ", factor: float, out: Activation, add: Activation | "
                   "None, threads: int) -> None"));
}

}  // namespace sparsecore
