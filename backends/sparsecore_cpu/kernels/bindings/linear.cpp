// Sparse linear layers for Python.
#include "linear/linear.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>

#include "bindings/operands.hpp"
#include "bindings/sparsity_pattern.hpp"
#include "linear/blocks.hpp"
#include "runtime/caches.hpp"

using namespace nanobind::literals;

namespace sparsecore {
namespace {

#define POSITIONS "numpy.typing.NDArray[numpy.int32] | numpy.typing.NDArray[numpy.int64]"
#define ANY_ARRAY "numpy.typing.NDArray[typing.Any]"

int64_t power_of_two_near(double number) {
  return int64_t{1} << static_cast<int>(std::lround(std::log2(std::max(number, 1.0))));
}

// How many columns are read at a time, by how many bytes a column has.
int64_t tile_of(const Rows& rows, int64_t bytes_per_column) {
  // An output's sums are loaded and stored once a tile, which takes about as long as so many weights.
  constexpr double WEIGHTS_PER_RUN = 12;
  const CacheSizes caches = cache_sizes();
  const double density =
      static_cast<double>(rows.count()) / static_cast<double>(rows.rows()) / static_cast<double>(rows.column_count());
  const double bytes = static_cast<double>(bytes_per_column);
  const double near = static_cast<double>(caches.first) / bytes,
               far = static_cast<double>(caches.second) * 0.75 / bytes;
  const double wanted = std::max(near, std::min(far, WEIGHTS_PER_RUN / std::max(density, 1e-9)));
  return std::min(power_of_two_near(wanted), SEGMENT);
}

// The columns that are one task: few enough for many threads.
int64_t range_of(const Rows& rows) {
  constexpr double TASKS = 16;
  constexpr int64_t FEWEST = 64;
  return std::min(std::max(power_of_two_near(static_cast<double>(rows.column_count()) / TASKS), FEWEST), SEGMENT);
}

class LinearKernels {
 public:
  explicit LinearKernels(const std::string& name, bool rounded) {
    const LinearTables tables = find_linear_kernels(name.c_str());
    rounded_ = rounded && tables.bfloat16, table_ = rounded_ ? tables.bfloat16 : tables.float32;
    block_table_ = rounded ? tables.blocks : nullptr;
    if (!table_) throw std::invalid_argument("this processor has no kernels named '" + name + "'");
  }

  bool rounded() const { return rounded_; }

  bool multiplies_blocks(SparsityPattern& pattern) const {
    return block_table_ && pattern.blocks() && block_table_->is_usable();
  }

  void forward(const Activation& x, const Activation& out, const Activation* add, SparsityPattern& pattern,
               nb::handle given_values, nb::handle given_sums, Integer given_threads, nb::handle given_bias) const {
    const int threads = thread_count(given_threads);
    require_features(x, pattern.inputs()), require_features(out, pattern.outputs()), require_one_batch(x, out);
    const ReadonlyFloats values = values_of(pattern, given_values);
    std::optional<Sums> sums;
    if (!given_sums.is_none()) sums.emplace("sums", given_sums);
    require_disjoint(out.memory(), {x.memory(), values.memory()});
    if (add) require_start(*add, out);
    std::optional<ReadonlyFloats> bias;
    if (!given_bias.is_none()) {
      bias.emplace("bias", given_bias);
      require(bias->length() == pattern.outputs(), "the bias has another number of entries than there are outputs");
      require_disjoint(out.memory(), {bias->memory()});
    }
    if (sums) {
      require(sums->length(0) == out.extent.channels && sums->length(1) == 2, "sums are (channels, 2)");
      require_disjoint(sums->memory(), {x.memory(), out.memory(), values.memory()});
      if (bias) require_disjoint(sums->memory(), {bias->memory()});
      if (add) require_disjoint(sums->memory(), {add->memory()});
    }
    if (multiplies_blocks(pattern)) {
      BlockParams params{};
      params.blocks = pattern.blocks()->list(), params.values = values.data();
      params.x = data(x), params.add = add ? data(*add) : nullptr, params.out = data(out);
      params.bias = bias ? bias->data() : nullptr, params.sums = sums ? sums->data() : nullptr;
      params.vectors = x.extent.width, params.last_lanes = x.extent.last_lanes;
      params.cache_bytes = cache_sizes().second, params.threads = threads;
      nb::gil_scoped_release release;
      return block_table_->forward(params);
    }
    LinearParams params{};
    params.by_output = pattern.by_output().tiled(tile_of(pattern.by_output(), bytes_per_feature(x)), threads);
    params.values = values.data(), params.x = data(x), params.add = add ? data(*add) : nullptr, params.out = data(out);
    params.bias = bias ? bias->data() : nullptr, params.sums = sums ? sums->data() : nullptr;
    params.vectors = x.extent.width, params.last_lanes = x.extent.last_lanes;
    params.cache_bytes = cache_sizes().second, params.threads = threads;
    nb::gil_scoped_release release;
    table_->forward(params);
  }

  void weight_gradient(const Activation& x, const Activation& gradient, SparsityPattern& pattern,
                       nb::handle given_gradients, Integer given_threads) const {
    const int threads = thread_count(given_threads);
    const Floats gradients = gradients_of(pattern, given_gradients);
    require_features(gradient, pattern.outputs());
    require_weights(x, gradient, pattern, gradients);
    compute_gradients(gradient, pattern, {&x, &gradients, nullptr, nullptr, nullptr, threads});
  }

  void input_gradient(const Activation& gradient, SparsityPattern& pattern, nb::handle given_values,
                      const Activation& out, const Activation* add, Integer given_threads) const {
    const int threads = thread_count(given_threads);
    const ReadonlyFloats values = values_of(pattern, given_values);
    require_features(gradient, pattern.outputs());
    require_inputs(gradient, pattern, values, out, add);
    compute_gradients(gradient, pattern, {nullptr, nullptr, &values, &out, add, threads});
  }

  void backward(const Activation& x, const Activation& gradient, SparsityPattern& pattern, nb::handle given_values,
                nb::handle given_gradients, const Activation& out, const Activation* add, Integer given_threads) const {
    const int threads = thread_count(given_threads);
    const ReadonlyFloats values = values_of(pattern, given_values);
    const Floats gradients = gradients_of(pattern, given_gradients);
    require_features(gradient, pattern.outputs());
    require_weights(x, gradient, pattern, gradients), require_inputs(gradient, pattern, values, out, add);
    require_disjoint(out.memory(), {x.memory(), gradients.memory()});
    require_disjoint(gradients.memory(), {values.memory()});
    if (add) require_disjoint(gradients.memory(), {add->memory()});
    compute_gradients(gradient, pattern, {&x, &gradients, &values, &out, add, threads});
  }

 private:
  void require_features(const Activation& x, int64_t features) const {
    require(x.extent.features, "a linear layer reads and makes features, not images");
    require(x.lanes() == table_->lanes, "the buffer has another number of lanes than the kernels");
    require(x.extent.channels == features, "the matrix has another number of rows or columns than there are features");
  }

  static void require_one_batch(const Activation& one, const Activation& other) {
    require(one.extent.width == other.extent.width && one.extent.last_lanes == other.extent.last_lanes,
            "the buffers are of different batches");
  }

  // What an output starts from may be the output itself.
  static void require_start(const Activation& add, const Activation& out) {
    require_same_layout(add, out), require_disjoint_or_same(out, add);
  }

  static ReadonlyFloats values_of(const SparsityPattern& pattern, nb::handle given) {
    ReadonlyFloats values("values", given);
    require(values.length() == pattern.count(), "there are not as many values as positions");
    return values;
  }

  static Floats gradients_of(const SparsityPattern& pattern, nb::handle given) {
    Floats gradients("gradients", given);
    require(gradients.length() == pattern.count(), "there are not as many gradients as positions");
    return gradients;
  }

  static float* data(const Activation& x) { return static_cast<float*>(x.view.data); }

  // The bytes of a feature that are read at a time.
  int64_t bytes_per_feature(const Activation& x) const {
    const int64_t vectors = x.extent.width, most = table_->most_vectors, panels = (vectors + most - 1) / most;
    return (vectors + panels - 1) / panels * x.lanes() * static_cast<int64_t>(rounded_ ? 2 : sizeof(float));
  }

  void require_weights(const Activation& x, const Activation& gradient, const SparsityPattern& pattern,
                       const Floats& gradients) const {
    require_features(x, pattern.inputs()), require_one_batch(x, gradient);
    require_disjoint(gradients.memory(), {x.memory(), gradient.memory()});
  }

  void require_inputs(const Activation& gradient, const SparsityPattern& pattern, const ReadonlyFloats& values,
                      const Activation& out, const Activation* add) const {
    require_features(out, pattern.inputs()), require_one_batch(out, gradient);
    require_disjoint(out.memory(), {gradient.memory(), values.memory()});
    if (add) require_start(*add, out);
  }

  // What gradients are computed of. `x` and `weights` are null where those of the weights are not wanted, `values` and
  // `inputs` where those of the inputs are not.
  struct WantedGradients {
    const Activation* x;
    const Floats* weights;
    const ReadonlyFloats* values;
    const Activation *inputs, *add;
    int threads;

    // Sets the parameters that kernels of all kinds have.
    template <class Params>
    void set(Params& params, const Activation& gradient) const {
      params.gradient = data(gradient), params.vectors = gradient.extent.width;
      if (weights) params.x = data(*x), params.weights = weights->data();
      if (inputs) params.values = values->data(), params.inputs = data(*inputs);
      params.add = add ? data(*add) : nullptr;
      params.cache_bytes = cache_sizes().second, params.threads = threads;
    }
  };

  void compute_gradients(const Activation& gradient, SparsityPattern& pattern, const WantedGradients& wanted) const {
    if (multiplies_blocks(pattern)) {
      BlockGradientsParams params{};
      params.blocks = pattern.blocks()->list(), wanted.set(params, gradient);
      nb::gil_scoped_release release;
      return block_table_->gradients(params);
    }
    LinearGradientsParams params{};
    wanted.set(params, gradient);
    const int threads = wanted.threads;
    Rows& by_output = pattern.by_output();
    params.by_output = by_output.tiled(tile_of(by_output, bytes_per_feature(gradient)), threads);
    if (wanted.inputs) {
      Rows& by_input = pattern.by_input(threads);
      params.by_input = by_input.tiled(tile_of(by_input, bytes_per_feature(gradient)), threads);
      params.ranges = by_output.tiled(range_of(by_output), threads);
    }
    nb::gil_scoped_release release;
    table_->gradients(params);
  }

  const LinearTable* table_;
  const BlockTable* block_table_;  // null where there are none for blocks
  bool rounded_;
};

}  // namespace

void add_linear(nb::module_& module) {
  nb::class_<SparsityPattern>(module, "SparsityPattern",
                              R"(The positions of the active weights of a matrix (outputs, inputs).

``positions`` are row-major and ascend; values and gradients of the weights have the same order. They are copied, as
16 bits each, on so many threads. What the kernels need in addition is made when it is first needed.)")
      .def(nb::init<nb::handle, Integer, Integer, Integer>(), "positions"_a.none(), "outputs"_a, "inputs"_a,
           "threads"_a = 1,
           nb::sig("def __init__(self, positions: " POSITIONS ", outputs: int, inputs: int, threads: int = 1) -> None"))
      .def_prop_ro("count", &SparsityPattern::count, "The number of active weights.")
      .def_prop_ro("arrays", &SparsityPattern::arrays, "All arrays that were made so far; read-only.",
                   nb::for_getter(nb::sig("def arrays(self) -> list[" ANY_ARRAY "]")));
  nb::class_<LinearKernels>(
      module, "LinearKernels",
      R"(The kernels of linear layers for one instruction set, which are named as those of :class:`Kernels`.

All activations are features of one batch. Values and gradients are in the order of the pattern's positions.

With ``rounded`` the outputs and the weights' gradients are sums, in float32, of products of numbers that are
rounded to bfloat16, where the processor has instructions for this (AVX512_BF16); where it has none, nothing is
rounded. The inputs' gradients are computed in float32. Where the processor has AMX and the weights are whole blocks
of 16x32, all three are products of rounded blocks.)")
      .def(nb::init<const std::string&, bool>(), "name"_a = "", "rounded"_a = false)
      .def_prop_ro("rounded", &LinearKernels::rounded, "Whether numbers are rounded before they are multiplied.")
      .def("multiplies_blocks", &LinearKernels::multiplies_blocks, "pattern"_a,
           "Whether the weights are multiplied block by block, by matrix tiles (AMX).")
      .def("forward", &LinearKernels::forward, "x"_a, "out"_a, "add"_a.none(), "pattern"_a, "values"_a.none(),
           "sums"_a.none(), "threads"_a, "bias"_a.none() = nb::none(),
           "Computes out = add + bias + weights·x, and the sums of out and of its square.",
           nb::sig("def forward(self, x: Activation, out: Activation, add: Activation | None, pattern: "
                   "SparsityPattern, values: " FLOATS ", sums: " SUMS " | None, threads: int, bias: " FLOATS
                   " | None = None) -> None"))
      .def("weight_gradient", &LinearKernels::weight_gradient, "x"_a, "gradient"_a, "pattern"_a, "gradients"_a.none(),
           "threads"_a, "Computes the gradient of each active weight.",
           nb::sig("def weight_gradient(self, x: Activation, gradient: Activation, pattern: SparsityPattern, "
                   "gradients: " FLOATS ", threads: int) -> None"))
      .def("input_gradient", &LinearKernels::input_gradient, "gradient"_a, "pattern"_a, "values"_a.none(), "out"_a,
           "add"_a.none(), "threads"_a, "Computes the gradient of the input, plus ``add``.",
           nb::sig("def input_gradient(self, gradient: Activation, pattern: SparsityPattern, values: " FLOATS
                   ", out: Activation, add: Activation | None, threads: int) -> None"))
      .def("backward", &LinearKernels::backward, "x"_a, "gradient"_a, "pattern"_a, "values"_a.none(),
           "gradients"_a.none(), "out"_a, "add"_a.none(), "threads"_a,
           "Computes both: ``gradients`` of the weights, and ``out``, the gradient of the input, plus ``add``.",
           nb::sig("def backward(self, x: Activation, gradient: Activation, pattern: SparsityPattern, values: " FLOATS
                   ", gradients: " FLOATS ", out: Activation, add: Activation | None, threads: int) -> None"));
}

}  // namespace sparsecore
