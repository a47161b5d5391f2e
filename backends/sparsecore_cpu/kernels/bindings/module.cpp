// The Python module `sparsecore_cpu._kernels`. Its stub, _kernels.pyi, is generated from the signatures and docstrings
// here: `make stubs`.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>

#include <optional>
#include <utility>
#include <variant>

#include "bindings/bindings.hpp"
#include "runtime/openmp_team.hpp"
#include "runtime/series.hpp"
#include "runtime/thread_pool.hpp"

using namespace nanobind::literals;
namespace nb = nanobind;

namespace sparsecore {

void add_attention(nb::module_& module);
void add_weight_lists(nb::module_& module);
void add_linear(nb::module_& module);
void add_pointwise(nb::module_& module, nb::class_<Bindings>& kernels);
void add_products(nb::class_<Bindings>& kernels);
void add_normalization(nb::class_<Bindings>& kernels);
void add_row_convolution(nb::module_& module);
void add_pooling(nb::module_& module, nb::class_<Bindings>& kernels);

namespace {

// The same step down and to the right, or two steps.
using GivenStep = std::variant<Integer, std::pair<Integer, Integer>>;

Step step_of(const GivenStep& given) {
  if (const Integer* both = std::get_if<Integer>(&given)) return {*both, *both};
  const auto& [row, column] = std::get<std::pair<Integer, Integer>>(given);
  return {row, column};
}

// A read-only array of numbers that belong to a shared object, which lives as long as the array is referenced.
template <class Number, class Owner>
nb::ndarray<nb::numpy, const Number, nb::ndim<1>> view_of(const std::vector<Number>& numbers, const Owner& owner) {
  const nb::capsule held(new Owner(owner), [](void* held) noexcept { delete static_cast<Owner*>(held); });
  return {numbers.data(), {numbers.size()}, held};
}

nb::ndarray<nb::numpy, const int32_t, nb::ndim<1>> view_of(const IndexCopy& indices) {
  return view_of(*indices, indices);
}

nb::ndarray<nb::numpy, const uint16_t, nb::ndim<1>> channels_of(const Weights& weights) {
  static const auto none = std::make_shared<const OwnPixelChannels>();
  const std::shared_ptr<const OwnPixelChannels>& made = *weights.made ? *weights.made : none;
  return view_of(made->channels, made);
}

void add_operands(nb::module_& module) {
  nb::class_<Activation>(module, "Activation", R"(A buffer of activations, which starts at a cache line.

Images are (blocks, height + 2·border, channels, width + 2·border, lanes) of float32, or of the upper halves of
floats as uint16 (bfloat16). Features are (1, 1, features, blocks, lanes) of float32.)")
      .def(nb::init<nb::handle, Integer, Integer, bool>(), "buffer"_a.none(), "border"_a, "images"_a, "features"_a,
           nb::sig("def __init__(self, buffer: numpy.typing.NDArray[typing.Any], border: int, images: int, features: "
                   "bool) -> None"));
  nb::class_<Input>(module, "Input",
                    R"(The input of a convolution: an activation, or a function of it that is computed as it is read.)")
      .def(nb::init<const Activation&>(), "pixels"_a)
      .def_static("rectified", &Input::rectified, "pixels"_a, "scale"_a.none(), "shift"_a.none(),
                  "The input relu(scale·pixels + shift), by channel.",
                  nb::sig("def rectified(pixels: Activation, scale: " FLOATS ", shift: " FLOATS ") -> Input"))
      .def_static("combined", &Input::combined, "pixels"_a, "other"_a, "scale"_a.none(), "other_scale"_a.none(),
                  "shift"_a.none(), "The input scale·pixels + other_scale·other + shift, by channel.",
                  nb::sig("def combined(pixels: Activation, other: Activation, scale: " FLOATS ", other_scale: " FLOATS
                          ", shift: " FLOATS ") -> Input"));
  nb::class_<Weights>(module, "Weights",
                      R"(A list of nonzero weights, in groups by block of input channels, then by output channel.

A weight multiplies the input at its offset from the output's own position. Bundled weights have :data:`BUNDLE`
values an offset, for as many output channels; a group then belongs to such a bundle. Pointers and offsets are
copied; the values are read from the array itself whenever the weights are used.)")
      .def(nb::init<nb::handle, nb::handle, nb::handle, Integer, bool>(), "pointers"_a.none(), "offsets"_a.none(),
           "values"_a.none(), "channels"_a, "bundled"_a = false,
           nb::sig("def __init__(self, pointers: " INDICES ", offsets: " INDICES ", values: " FLOATS
                   ", channels: int, bundled: bool = False) -> None"))
      .def_prop_ro(
          "pointers", [](const Weights& weights) { return view_of(weights.pointers); }, nb::rv_policy::automatic,
          "Where each group of weights starts; read-only.", nb::for_getter(nb::sig("def pointers(self) -> " INDICES)))
      .def_prop_ro(
          "offsets", [](const Weights& weights) { return view_of(weights.offsets); }, nb::rv_policy::automatic,
          "What each weight reads, relative to the output's position; read-only.",
          nb::for_getter(nb::sig("def offsets(self) -> " INDICES)))
      .def_prop_ro("channels", &channels_of, nb::rv_policy::automatic,
                   R"(The input channel of each weight, where the weights were used and all read the output's own pixel.

Read-only; empty elsewhere.)",
                   nb::for_getter(nb::sig("def channels(self) -> numpy.typing.NDArray[numpy.uint16]")));
  nb::class_<Mask>(module, "Mask",
                   R"(Where relu(scale·input + shift) is positive; and the mean of the input by channel.)")
      .def(nb::init<const Activation&, nb::handle, nb::handle, nb::handle>(), "input"_a, "scale"_a.none(),
           "shift"_a.none(), "mean"_a.none(),
           nb::sig("def __init__(self, input: Activation, scale: " FLOATS ", shift: " FLOATS ", mean: " FLOATS
                   ") -> None"));
  nb::class_<Steps>(module, "Steps",
                    R"(The pixels of a convolution.

It makes every ``out_step``-th output from (row, column) on; the inputs of each are ``x_step`` pixels further on. A
step is one number, or two: down and to the right.)")
      .def(
          "__init__",
          [](Steps* self, const GivenStep& x_step, const GivenStep& out_step, Integer row, Integer column) {
            new (self) Steps(step_of(x_step), step_of(out_step), row, column);
          },
          "x_step"_a = 1, "out_step"_a = 1, "row"_a = 0, "column"_a = 0,
          nb::sig(
              "def __init__(self, x_step: int | tuple[int, int] = 1, out_step: int | tuple[int, int] = 1, row: int = "
              "0, column: int = 0) -> None"));
}

nb::class_<Bindings> add_kernels(nb::module_& module) {
  nb::class_<Bindings> kernels(
      module, "Kernels",
      R"(The kernels for one instruction set: amx, avx512, avx2 or baseline, or without a name the best one.)");
  kernels.def(nb::init<const std::string&>(), "name"_a = "")
      .def_prop_ro("name", &Bindings::name, "The name of the instruction set.")
      .def_prop_ro("lanes", &Bindings::lanes, "How many floats a vector has.")
      .def("convolve", &Bindings::convolve, "x"_a, "out"_a, "add"_a.none(), "weights"_a, "steps"_a, "sums"_a.none(),
           "threads"_a, "Computes out = add + weights∗x, and the sums of out and of its square.",
           nb::sig("def convolve(self, x: Input, out: Activation, add: Activation | None, weights: Weights, steps: "
                   "Steps, sums: " SUMS " | None, threads: int) -> None"))
      .def("convolve_masked", &Bindings::convolve_masked, "x"_a, "out"_a, "add"_a.none(), "weights"_a, "steps"_a,
           "mask"_a, "sums"_a.none(), "threads"_a,
           R"(Computes out = add + weights∗x where the mask is positive, elsewhere zero.

The sums are those of out and out·(input − mean).)",
           nb::sig("def convolve_masked(self, x: Input, out: Activation, add: Activation | None, weights: Weights, "
                   "steps: Steps, mask: Mask, sums: " SUMS ", threads: int) -> None"))
      .def("weight_gradient", &Bindings::weight_gradient, "x"_a, "gradient"_a, "weights"_a, "steps"_a,
           "gradients"_a.none(), "threads"_a, "Computes the gradient of each weight in the list.",
           nb::sig(
               "def weight_gradient(self, x: Input, gradient: Input, weights: Weights, steps: Steps, gradients: " FLOATS
               ", threads: int) -> None"))
      .def("backward", &Bindings::backward, "x"_a, "gradient"_a, "weights"_a, "stride"_a, "gradients"_a.none(), "out"_a,
           "add"_a.none(), "transposed"_a, "mask"_a.none(), "sums"_a.none(), "threads"_a,
           R"(Computes both gradients of a convolution whose input has ``stride`` times the outputs' height and width.

``gradients`` are those of the weights; ``out`` is that of the input, plus ``add``. ``transposed`` are pairs
of transposed weights and the steps at which they make it, one for each position of a pixel among the
strides. With a mask, ``out`` and ``sums`` are as of :meth:`convolve_masked`; without one there are no sums.)",
           nb::sig("def backward(self, x: Input, gradient: Input, weights: Weights, stride: int, gradients: " FLOATS
                   ", out: Activation, add: Activation | None, transposed: collections.abc.Sequence[tuple[Weights, "
                   "Steps]], mask: Mask | None, sums: " SUMS ", threads: int) -> None"))
      .def("affine", &Bindings::affine, "x"_a, "out"_a, "scale"_a.none(), "shift"_a.none(), "threads"_a,
           "Computes out = scale·x + shift, by channel.",
           nb::sig("def affine(self, x: Activation, out: Activation, scale: " FLOATS ", shift: " FLOATS
                   ", threads: int) -> None"))
      .def("affine_relu", &Bindings::affine_relu, "x"_a, "out"_a, "scale"_a.none(), "shift"_a.none(), "threads"_a,
           "Computes out = relu(scale·x + shift), by channel.",
           nb::sig("def affine_relu(self, x: Activation, out: Activation, scale: " FLOATS ", shift: " FLOATS
                   ", threads: int) -> None"))
      .def("combine", &Bindings::combine, "gradient"_a, "x"_a, "out"_a, "add"_a.none(), "gradient_scale"_a.none(),
           "x_scale"_a.none(), "constant"_a.none(), "threads"_a,
           "Computes out = gradient_scale·gradient + x_scale·x + constant + add: the gradient of a batch norm.",
           nb::sig("def combine(self, gradient: Activation, x: Activation, out: Activation, add: Activation | None, "
                   "gradient_scale: " FLOATS ", x_scale: " FLOATS ", constant: " FLOATS ", threads: int) -> None"))
      .def("relu_backward", &Bindings::relu_backward, "gradient"_a, "out"_a, "mask"_a, "sums"_a.none(), "threads"_a,
           R"(Computes out = gradient where the mask is positive, elsewhere zero: the gradient of a relu.

The sums are those of :meth:`convolve_masked`.)",
           nb::sig("def relu_backward(self, gradient: Activation, out: Activation, mask: Mask, sums: " SUMS
                   ", threads: int) -> None"))
      .def("moments", &Bindings::moments, "x"_a, "about"_a.none(), "sums"_a.none(), "threads"_a,
           "Computes the sums of x − about and of its square.",
           nb::sig("def moments(self, x: Activation, about: " FLOATS ", sums: " SUMS ", threads: int) -> None"))
      .def("gradient_sums", &Bindings::gradient_sums, "gradient"_a, "x"_a, "mean"_a.none(), "sums"_a.none(),
           "threads"_a, "Computes the sums of gradient and of gradient·(x − mean).",
           nb::sig("def gradient_sums(self, gradient: Activation, x: Activation, mean: " FLOATS ", sums: " SUMS
                   ", threads: int) -> None"))
      .def("pool", &Bindings::pool, "x"_a, "features"_a, "threads"_a, "Computes the mean over height and width.",
           nb::sig("def pool(self, x: Activation, features: Activation, threads: int) -> None"))
      .def("pool_backward", &Bindings::pool_backward, "features"_a, "out"_a, "add"_a.none(), "threads"_a,
           "Computes the gradient of :meth:`pool`, plus add.",
           nb::sig("def pool_backward(self, features: Activation, out: Activation, add: Activation | None, threads: "
                   "int) -> None"))
      .def("pack", &Bindings::pack, "images"_a.none(), "out"_a, "threads"_a,
           R"(Copies images (images, height, width, channels) of any strides into a buffer.

Features are images of one pixel.)",
           nb::sig("def pack(self, images: " FLOATS ", out: Activation, threads: int) -> None"))
      .def("unpack", &Bindings::unpack, "x"_a, "images"_a.none(), "threads"_a,
           "Copies a buffer into images of any strides; the inverse of :meth:`pack`.",
           nb::sig("def unpack(self, x: Activation, images: " FLOATS ", threads: int) -> None"));
  return kernels;
}

void add_threads(nb::module_& module) {
  module.def(
      "use_openmp_of",
      [](const std::optional<std::string>& library) {
        if (library) return use_openmp_of(library->c_str());
        use_no_openmp();
        return false;
      },
      "library"_a.none(),
      R"(Computes on the threads of the OpenMP runtime that a library in this process computes with.

``library`` is the library's file. Threads of two kinds would hinder each other. Results do not depend on it, bit
for bit. Returns whether this is so from now on; otherwise the kernels' own threads compute: without a library
(None), where it is not loaded or uses no OpenMP, and in forked processes, where OpenMP would wait for the parent's
threads.)",
      nb::sig("def use_openmp_of(library: str | None) -> bool"));
  module.def(
      "in_series",
      [](Integer threads, nb::callable function) {
        const int checked = thread_count(threads);
        std::optional<Series> series;
        {
          nb::gil_scoped_release release;  // it waits for jobs, which may need the interpreter
          series.emplace(checked);
        }
        function();
      },
      "threads"_a, "function"_a,
      R"(Calls a function whose kernels follow each other closely, such as those of one prediction.

The kernels' own threads, as many as ``threads``, are woken first and stay awake between the kernels.)",
      nb::sig("def in_series(threads: int, function: collections.abc.Callable[[], object]) -> None"));
  module.def(
      "_parallel_for",
      [](Integer count, Integer threads, nb::callable task) {
        const int checked = thread_count(threads);
        nb::gil_scoped_release release;
        parallel_for(count, checked, [&](int64_t index) {
          nb::gil_scoped_acquire acquire;
          task(index);
        });
      },
      "count"_a, "threads"_a, "task"_a, "For tests: calls the task with 0 to count - 1, as the kernels call theirs.",
      nb::sig("def _parallel_for(count: int, threads: int, task: collections.abc.Callable[[int], object]) -> None"));
  module.def(
      "_fail_scratch", [](Integer after) { scratch_requests_until_failure = after; }, "after"_a,
      "For tests: after so many requests for scratch memory one fails; a negative number ends that.",
      nb::sig("def _fail_scratch(after: int) -> None"));
}

}  // namespace

}  // namespace sparsecore

NB_MODULE(_kernels, module) {
  using namespace sparsecore;
  module.doc() =
      R"(Sparse kernels on activations of (blocks, height, channels, width, lanes), compiled from ``kernels/``.

All check their arguments, raise ``ValueError``, and release the interpreter's lock while they compute. No array is
converted, and no output may share memory with another argument, except where a kernel writes exactly where it reads.
Vectors by channel are float32. ``sums`` are (channels, 2) of float64, and are added to. ``threads`` is from 1 to 1024.)";
  // Objects may still be alive when Python exits; that is not a leak in this module.
  nb::set_leak_warnings(false);
  add_operands(module);
  nb::class_<Bindings> kernels = add_kernels(module);
  add_pointwise(module, kernels);
  add_pooling(module, kernels);
  add_products(kernels);
  add_normalization(kernels);
  add_row_convolution(module);
  add_weight_lists(module);
  add_linear(module);
  add_attention(module);
  add_threads(module);
  module.attr("BUNDLE") = BUNDLE;
}
