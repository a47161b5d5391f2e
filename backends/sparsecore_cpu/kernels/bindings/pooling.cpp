// Pooling and changes of shape for Python: methods of the kernels. Each checks its arguments, releases the
// interpreter's lock and calls the kernel.
#include <nanobind/nanobind.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <vector>

#include "bindings/passes.hpp"
#include "pooling/table.hpp"

using namespace nanobind::literals;

namespace sparsecore {
namespace {

// The windows along one axis: the pixels [first, last) of the input for each pixel of the output.
struct WindowAxis {
  IndexCopy first, last;
  int64_t count, reach = 0, longest = 0;  // windows; where the last one ends; pixels of the longest
  bool has_empty = false;

  WindowAxis(const char* first_name, nb::handle given_first, const char* last_name, nb::handle given_last)
      : first(copy_indices(ReadonlyIndices(first_name, given_first))),
        last(copy_indices(ReadonlyIndices(last_name, given_last))),
        count(static_cast<int64_t>(first->size())) {
    require(count > 0 && first->size() == last->size(), "there is a first and a last pixel for each window");
    require(first->front() >= 0 && std::is_sorted(first->begin(), first->end()) &&
                std::is_sorted(last->begin(), last->end()),
            "windows begin inside the input, and neither begin nor end before those before them");
    reach = last->back();
    for (int64_t i = 0; i < count; i++) {
      const int64_t pixels = int64_t{(*last)[i]} - (*first)[i];
      require(pixels >= 0, "a window ends before it begins");
      longest = std::max(longest, pixels), has_empty = has_empty || !pixels;
    }
  }
};

struct WindowPair {
  WindowAxis rows, columns;

  WindowPair(nb::handle first_row, nb::handle last_row, nb::handle first_column, nb::handle last_column)
      : rows("first_row", first_row, "last_row", last_row),
        columns("first_column", first_column, "last_column", last_column) {}

  Windows windows() const {
    return {rows.first->data(), rows.last->data(), columns.first->data(), columns.last->data()};
  }

  // The windows are those of outputs of this extent over inputs of that one.
  void require_between(const Extent& input, const Extent& output) const {
    require(rows.count == output.height && columns.count == output.width,
            "there is one window for each row and each column of the output");
    require(rows.reach <= input.height && columns.reach <= input.width, "a window reaches beyond the input");
  }

  void require_nonempty() const {
    require(!rows.has_empty && !columns.has_empty, "an empty window has no largest pixel");
  }
};

// Images of the kernels' lanes, of one batch and type.
void require_images(const Bindings& kernels, const Activation& x, const Activation& out) {
  require(x.lanes() == kernels.lanes() && out.lanes() == kernels.lanes(),
          "the buffers have another number of lanes than the kernels");
  require(!x.extent.features && !out.extent.features, "these are images, not features");
  require(x.value_bytes() == out.value_bytes(), "input and output are stored as different types");
  require(x.extent.blocks == out.extent.blocks && x.extent.last_lanes == out.extent.last_lanes,
          "input and output are of different batches");
}

void require_pooled(const Bindings& kernels, const Activation& x, const Activation& out) {
  require_images(kernels, x, out);
  require(x.extent.channels == out.extent.channels, "input and output have different numbers of channels");
  require_disjoint(out.memory(), {x.memory()});
}

// What max pooling reads: pixels as they are, or rectified.
PooledInput pooled_input(const Bindings& kernels, const Input& x, const Activation& out) {
  require_pooled(kernels, x.pixels, out);
  require(!x.other, "the input of max pooling is no sum of two activations");
  x.require_disjoint_from(out.memory());
  return {x.pixels.view, x.scale ? x.scale->data() : nullptr, x.scale ? x.shift->data() : nullptr};
}

const PoolingTable* table_for(const Bindings& kernels, const Activation& x) {
  const PoolingTables tables = find_pooling_kernels(kernels.name());
  return x.value_bytes() == sizeof(float) ? tables.float32 : tables.bfloat16;
}

void window_sum(const Bindings& kernels, const Activation& x, const Activation& out, const Activation* add,
                const WindowPair& windows, nb::handle given_rows, nb::handle given_columns, bool by_input,
                Integer given_threads) {
  const int threads = thread_count(given_threads);
  require_pooled(kernels, x, out), windows.require_between(x.extent, out.extent);
  const void* start = start_of(kernels, add, out);
  const ReadonlyFloats rows("row_factors", given_rows), columns("column_factors", given_columns);
  const Extent& factored = by_input ? x.extent : out.extent;
  require(rows.length() == factored.height && columns.length() == factored.width,
          "there is one factor for each row and each column");
  require_disjoint(out.memory(), {rows.memory(), columns.memory()});
  const WindowSumParams params{x.view,   out.view,   start,  windows.windows(), rows.data(), columns.data(),
                               by_input, out.extent, threads};
  nb::gil_scoped_release release;
  table_for(kernels, out)->window_sum(params);
}

void max_pool(const Bindings& kernels, const Input& x, const Activation& out, const WindowPair& windows,
              Integer given_threads) {
  const int threads = thread_count(given_threads);
  const PooledInput read = pooled_input(kernels, x, out);
  windows.require_between(x.pixels.extent, out.extent), windows.require_nonempty();
  const MaxPoolParams params{read, out.view, windows.windows(), out.extent, threads};
  nb::gil_scoped_release release;
  table_for(kernels, out)->max_pool(params);
}

void max_pool_backward(const Bindings& kernels, const Activation& gradient, const Input& x, const Activation& out,
                       const Activation* add, const WindowPair& windows, const Mask* given_mask, nb::handle given_sums,
                       Integer given_threads) {
  const int threads = thread_count(given_threads);
  MaxPoolBackwardParams params{};
  params.x = pooled_input(kernels, x, out), require_pooled(kernels, gradient, out);
  params.add = start_of(kernels, add, out);
  require(x.pixels.extent.height == out.extent.height && x.pixels.extent.width == out.extent.width,
          "the input and its gradient have one height and width");
  windows.require_between(out.extent, gradient.extent), windows.require_nonempty();
  params.gradient = gradient.view, params.out = out.view;
  params.windows = windows.windows(), params.tallest = windows.rows.longest;
  params.height = out.extent.height, params.width = out.extent.width;
  params.extent = gradient.extent, params.threads = threads;
  const ReluMask mask = given_mask ? given_mask->mask_of(out) : ReluMask{};
  std::optional<Sums> sums;
  std::vector<double> partial;
  if (given_mask) {
    sums.emplace("sums", given_sums);
    require_sums(*sums, out.extent.channels);
    x.require_disjoint_from(sums->memory());
    require_disjoint(sums->memory(), {gradient.memory(), out.memory(), given_mask->input.memory()});
    if (add) require_disjoint(sums->memory(), {add->memory()});
    partial.resize(static_cast<size_t>(out.extent.blocks * out.extent.channels * 2));
    params.mask = &mask, params.sums = partial.data();
  }
  {
    nb::gil_scoped_release release;
    table_for(kernels, out)->max_pool_backward(params);
  }
  if (sums) add_up(partial, *sums);
}

void gather_channels(const Bindings& kernels, const Activation& x, nb::handle given_channels, const Activation& out,
                     Integer first, const Activation* add, Integer given_threads) {
  const int threads = thread_count(given_threads);
  const IndexCopy channels = copy_indices(ReadonlyIndices("channels", given_channels));
  const int64_t count = static_cast<int64_t>(channels->size());
  require(x.lanes() == kernels.lanes() && out.lanes() == kernels.lanes(),
          "the buffers have another number of lanes than the kernels");
  require(x.value_bytes() == out.value_bytes(), "input and output are stored as different types");
  const Extent &from = x.extent, &to = out.extent;
  require(from.features == to.features && from.blocks == to.blocks && from.height == to.height &&
              from.width == to.width && from.last_lanes == to.last_lanes,
          "input and output differ in more than the channels");
  require(count > 0 && first >= 0 && first <= to.channels - count, "the output does not have as many channels");
  for (const int32_t channel : *channels) require(channel < from.channels, "the input has no such channel");
  require_disjoint(out.memory(), {x.memory()});
  GatherChannelsParams params{x.view, out.view, start_of(kernels, add, out), channels->data(), out.extent, threads};
  const int64_t before = first * out.view.channel_stride;
  params.out.data = advance(params.out.data, before, out.value_bytes());
  if (add) params.add = advance(add->view.data, before, out.value_bytes());
  params.extent.channels = count;
  nb::gil_scoped_release release;
  table_for(kernels, out)->gather_channels(params);
}

FlattenParams flatten_params(const Bindings& kernels, const Activation& images, const Activation& features,
                             const Activation* add, bool channels_first, Integer given_threads) {
  const int threads = thread_count(given_threads);
  const Extent &from = images.extent, &to = features.extent;
  require(images.lanes() == kernels.lanes() && features.lanes() == kernels.lanes(),
          "the buffers have another number of lanes than the kernels");
  require(!from.features && to.features, "these are not images and their features");
  require(to.width == from.blocks && to.last_lanes == from.last_lanes, "images and features are of different batches");
  require(to.channels == checked_product(checked_product(from.height, from.width), from.channels),
          "there are not as many features as an image has pixels in all channels");
  require_disjoint(images.memory(), {features.memory()});
  const void* start = start_of(kernels, add, images);
  return {images.view, static_cast<float*>(features.view.data), start, channels_first, from, threads};
}

void flatten(const Bindings& kernels, const Activation& x, const Activation& features, bool channels_first,
             Integer threads) {
  const FlattenParams params = flatten_params(kernels, x, features, nullptr, channels_first, threads);
  nb::gil_scoped_release release;
  table_for(kernels, x)->flatten(params);
}

void unflatten(const Bindings& kernels, const Activation& features, const Activation& out, const Activation* add,
               bool channels_first, Integer threads) {
  const FlattenParams params = flatten_params(kernels, out, features, add, channels_first, threads);
  nb::gil_scoped_release release;
  table_for(kernels, out)->unflatten(params);
}

}  // namespace

void add_pooling(nb::module_& module, nb::class_<Bindings>& kernels) {
  nb::class_<WindowPair>(module, "Windows",
                         R"(The rows and columns of the input that each row and column of the output is made of.

Output row i is made of the input rows from ``first_row[i]`` up to, but not with, ``last_row[i]``; columns likewise.
Each array ascends, or stays equal. They are copied.)")
      .def(nb::init<nb::handle, nb::handle, nb::handle, nb::handle>(), "first_row"_a.none(), "last_row"_a.none(),
           "first_column"_a.none(), "last_column"_a.none(),
           nb::sig("def __init__(self, first_row: " INDICES ", last_row: " INDICES ", first_column: " INDICES
                   ", last_column: " INDICES ") -> None"));
  kernels
      .def("window_sum", &window_sum, "x"_a, "out"_a, "add"_a.none(), "windows"_a, "row_factors"_a.none(),
           "column_factors"_a.none(), "by_input"_a, "threads"_a,
           R"(Computes the sum of each window of images times the factors of the output's row and column, plus add.

With ``by_input``, each pixel of the input is multiplied by the factors of its own row and column instead. The
sum of an empty window is zero.)",
           nb::sig("def window_sum(self, x: Activation, out: Activation, add: Activation | None, windows: Windows, "
                   "row_factors: " FLOATS ", column_factors: " FLOATS ", by_input: bool, threads: int) -> None"))
      .def("max_pool", &max_pool, "x"_a, "out"_a, "windows"_a, "threads"_a,
           "Computes the largest pixel of each window of images; NaN is larger than all others.",
           nb::sig("def max_pool(self, x: Input, out: Activation, windows: Windows, threads: int) -> None"))
      .def("max_pool_backward", &max_pool_backward, "gradient"_a, "x"_a, "out"_a, "add"_a.none(), "windows"_a,
           "mask"_a.none(), "sums"_a.none(), "threads"_a,
           R"(Computes the gradient of :meth:`max_pool` for its input, plus add.

The gradient of a window goes to the first pixel, row by row, that has the largest value. With a mask, ``out``
and ``sums`` are as of :meth:`convolve_masked`; without one there are no sums.)",
           nb::sig("def max_pool_backward(self, gradient: Activation, x: Input, out: Activation, add: Activation | "
                   "None, windows: Windows, mask: Mask | None, sums: " SUMS " | None, threads: int) -> None"))
      .def("gather_channels", &gather_channels, "x"_a, "channels"_a.none(), "out"_a, "first"_a, "add"_a.none(),
           "threads"_a,
           R"(Computes channels of out, from ``first`` on, as these channels of x plus add.

A negative number stands for a channel of zeros. The other channels of ``out`` are left as they are.)",
           nb::sig("def gather_channels(self, x: Activation, channels: " INDICES
                   ", out: Activation, first: int, add: Activation | None, threads: int) -> None"))
      .def("flatten", &flatten, "x"_a, "features"_a, "channels_first"_a, "threads"_a,
           R"(Copies images to features.

They are in the order channel, height, width with ``channels_first``, else in the order height, width, channel.)",
           nb::sig("def flatten(self, x: Activation, features: Activation, channels_first: bool, threads: int) -> "
                   "None"))
      .def("unflatten", &unflatten, "features"_a, "out"_a, "add"_a.none(), "channels_first"_a, "threads"_a,
           "Copies features to images, plus add; the inverse of :meth:`flatten`.",
           nb::sig("def unflatten(self, features: Activation, out: Activation, add: Activation | None, "
                   "channels_first: bool, threads: int) -> None"));
}

}  // namespace sparsecore
