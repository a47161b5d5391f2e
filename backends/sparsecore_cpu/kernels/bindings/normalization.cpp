// Layer norm, RMS norm and group norm for Python.
#include <nanobind/nanobind.h>

#include <vector>

#include "bindings/passes.hpp"

using namespace nanobind::literals;

namespace sparsecore {
namespace {

using Statistics = Array<float, 4>;
using ReadonlyStatistics = Array<const float, 4>;

void require_groups(const Activation& x, int64_t groups, bool by_image) {
  require(groups > 0 && x.extent.channels % groups == 0, "the groups do not divide the channels");
  require(!by_image || !x.extent.features, "statistics by image are those of images");
}

template <class AnArray>
void require_statistics(const AnArray& statistics, const Activation& x, int64_t groups, bool by_image) {
  const Extent& extent = x.extent;
  const int64_t count = by_image ? extent.blocks : extent.blocks * extent.height * extent.width;
  const int64_t shape[] = {count, groups, 2, x.lanes()};
  for (int axis = 0; axis < 4; axis++)
    require(statistics.length(axis) == shape[axis], "statistics are (pixels or blocks, groups, 2, lanes)");
}

const NormalizationKernels& kernels_of(const Bindings& kernels, const Activation& x, bool by_image) {
  const PointwiseTable& table = pointwise_table_for(kernels, x);
  return by_image ? table.by_image : table.by_pixel;
}

void normalize(const Bindings& kernels, const Activation& x, const Activation& out, nb::handle given_scale,
               nb::handle given_shift, nb::handle given_statistics, Integer groups, bool by_image, float epsilon,
               bool centered, Integer given_threads) {
  const int threads = thread_count(given_threads);
  require_pixelwise(kernels, x, out);
  require_groups(x, groups, by_image);
  const ReadonlyFloats scale = factor_by_channel("scale", given_scale, out);
  const ReadonlyFloats shift = factor_by_channel("shift", given_shift, out);
  const Statistics statistics("statistics", given_statistics);
  require_statistics(statistics, x, groups, by_image);
  require_disjoint(statistics.memory(), {x.memory(), out.memory(), scale.memory(), shift.memory()});
  const NormalizationParams params{x.view, out.view, scale.data(), shift.data(), statistics.data(),
                                   groups, epsilon,  centered,     x.extent,     threads};
  nb::gil_scoped_release release;
  kernels_of(kernels, out, by_image).forward(params);
}

void normalize_backward(const Bindings& kernels, const Activation& gradient, const Activation& x, const Activation& out,
                        const Activation* add, nb::handle given_scale, nb::handle given_statistics, Integer groups,
                        bool by_image, bool centered, nb::handle given_sums, Integer given_threads) {
  const int threads = thread_count(given_threads);
  require_pixelwise(kernels, gradient, out), require_pixelwise(kernels, x, out);
  require_groups(x, groups, by_image);
  const void* start = start_of(kernels, add, out);
  const ReadonlyFloats scale = factor_by_channel("scale", given_scale, out);
  const ReadonlyStatistics statistics("statistics", given_statistics);
  require_statistics(statistics, x, groups, by_image);
  require_disjoint(out.memory(), {statistics.memory()});
  const Sums sums("sums", given_sums);
  require_sums(sums, x.extent.channels);
  require_disjoint(sums.memory(), {gradient.memory(), x.memory(), out.memory(), scale.memory(), statistics.memory()});
  if (add) require_disjoint(sums.memory(), {add->memory()});
  const NormalizationKernels& chosen = kernels_of(kernels, out, by_image);
  std::vector<double> partial(static_cast<size_t>(chosen.part_count(x.extent) * x.extent.channels * 2));
  const NormalizationBackwardParams params{
      gradient.view, x.view,   out.view,       start,    scale.data(), statistics.data(),
      groups,        centered, partial.data(), x.extent, threads};
  {
    nb::gil_scoped_release release;
    chosen.backward(params);
  }
  add_up(partial, sums);
}

}  // namespace

void add_normalization(nb::class_<Bindings>& kernels) {
  kernels
      .def("normalize", &normalize, "x"_a, "out"_a, "scale"_a.none(), "shift"_a.none(), "statistics"_a.none(),
           "groups"_a, "by_image"_a, "epsilon"_a, "centered"_a, "threads"_a,
           R"(Computes out = (x − mean)/√(variance + epsilon)·scale + shift; scale and shift are by channel.

Mean and variance are those of the channels of a group, of each pixel or vector or, ``by_image``, of all pixels
of an image. Without ``centered`` the mean is zero, and the variance is the mean square. ``statistics`` gets the
means and the inverse deviations, (pixels of all blocks, groups, 2, lanes) or (blocks, groups, 2, lanes).)",
           nb::sig("def normalize(self, x: Activation, out: Activation, scale: " FLOATS ", shift: " FLOATS
                   ", statistics: " FLOATS
                   ", groups: int, by_image: bool, epsilon: float, centered: bool, threads: int) -> None"))
      .def("normalize_backward", &normalize_backward, "gradient"_a, "x"_a, "out"_a, "add"_a.none(), "scale"_a.none(),
           "statistics"_a.none(), "groups"_a, "by_image"_a, "centered"_a, "sums"_a.none(), "threads"_a,
           R"(Computes the gradient of :meth:`normalize` for its input, plus add.

The sums are those of the gradients of scale and of shift.)",
           nb::sig("def normalize_backward(self, gradient: Activation, x: Activation, out: Activation, add: Activation "
                   "| None, scale: " FLOATS ", statistics: " FLOATS
                   ", groups: int, by_image: bool, centered: bool, sums: " SUMS ", threads: int) -> None"));
}

}  // namespace sparsecore
