// Sparse linear layers for Python.
#include "linear/linear.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings/operands.hpp"
#include "runtime/caches.hpp"

using namespace nanobind::literals;

namespace sparsecore {

template <>
struct DtypeName<int64_t> {
  static constexpr const char* value = "int64";
};

namespace {

#define POSITIONS "numpy.typing.NDArray[numpy.int64]"
#define ANY_ARRAY "numpy.typing.NDArray[typing.Any]"

using Positions = Array<const int64_t, 1>;
using Starts = std::vector<uint32_t>;

constexpr int64_t MOST_WEIGHTS = std::numeric_limits<int32_t>::max() - 16;

// The active weights of a matrix row by row, and where those of each tile start for the tiles that were asked for.
class Rows {
 public:
  Rows(int64_t rows, int64_t column_count, int64_t count)
      : rows_(rows),
        column_count_(column_count),
        count_(count),
        columns_(new uint16_t[static_cast<size_t>(count)]),
        segments_(static_cast<size_t>((segment_count() + 1) * rows)) {}

  int64_t rows() const { return rows_; }
  int64_t column_count() const { return column_count_; }
  int64_t count() const { return count_; }
  uint16_t* columns() { return columns_.get(); }

  // Where the weights of a row in a segment start. Those of the segment behind the last one start where they end.
  uint32_t& start(int64_t segment, int64_t row) { return segments_[static_cast<size_t>(segment * rows_ + row)]; }
  uint32_t start(int64_t segment, int64_t row) const { return segments_[static_cast<size_t>(segment * rows_ + row)]; }
  int64_t segment_count() const { return (column_count_ + SEGMENT - 1) / SEGMENT; }

  // Calls visit(row, column, weight) for each weight, row by row.
  template <class Visit>
  void for_each(Visit visit) const {
    for (int64_t row = 0; row < rows_; row++)
      for (int64_t segment = 0; segment < segment_count(); segment++)
        for (uint32_t k = start(segment, row); k < start(segment + 1, row); k++)
          visit(row, segment * SEGMENT + columns_[k], k);
  }

  // The tiles of so many columns; valid as long as this object.
  TiledRows tiled(int64_t tile) {
    if (tile == SEGMENT) return view(segments_, tile);
    auto found = tiled_.find(tile);
    if (found == tiled_.end()) found = tiled_.emplace(tile, starts_of(tile)).first;
    return view(found->second, tile);
  }

  template <class Visit>
  void for_each_array(Visit visit) const {
    visit(columns_.get(), static_cast<size_t>(count_));
    visit(segments_.data(), segments_.size());
    for (const auto& [tile, starts] : tiled_) visit(starts.data(), starts.size());
  }

 private:
  TiledRows view(const Starts& starts, int64_t tile) {
    if (!is_paired_) is_paired_ = are_pairs();
    return {columns_.get(), starts.data(), rows_, column_count_, tile, *is_paired_};
  }

  // Whether all weights are pairs of neighbours, the first of which is in an even column.
  bool are_pairs() const {
    if (count_ % 2) return false;
    for (int64_t k = 0; k < count_; k += 2)
      if (columns_[k] % 2 || columns_[k + 1] != columns_[k] + 1) return false;
    return std::all_of(segments_.begin(), segments_.end(), [](uint32_t start) { return start % 2 == 0; });
  }

  Starts starts_of(int64_t tile) const {
    const int64_t tiles = (column_count_ + tile - 1) / tile, tiles_per_segment = SEGMENT / tile;
    Starts starts(static_cast<size_t>((tiles + 1) * rows_));
    for (int64_t row = 0; row < rows_; row++) {
      uint32_t k = 0;
      for (int64_t number = 0; number < tiles; number++) {
        const int64_t segment = number / tiles_per_segment, first = number % tiles_per_segment * tile;
        if (!first) k = start(segment, row);
        while (k < start(segment + 1, row) && columns_[k] < first) k++;
        starts[static_cast<size_t>(number * rows_ + row)] = k;
      }
      starts[static_cast<size_t>(tiles * rows_ + row)] = start(segment_count(), row);
    }
    return starts;
  }

  int64_t rows_, column_count_, count_;
  std::unique_ptr<uint16_t[]> columns_;
  std::optional<bool> is_paired_;
  Starts segments_;  // those of tiles of SEGMENT columns
  std::map<int64_t, Starts> tiled_;
};

// The smallest table of starts has an entry for each row of each segment.
void require_tables_fit(int64_t rows, int64_t columns) {
  constexpr int64_t MOST_ENTRIES = 1 << 28, MOST = std::numeric_limits<int32_t>::max();
  require(rows <= MOST && columns <= MOST && rows * (columns / SEGMENT + 2) <= MOST_ENTRIES,
          "a matrix has more rows and columns than the kernels can index");
}

// Row-major positions that ascend, as rows and columns. Each is read once, as other threads may write to the array.
Rows rows_of(const Positions& positions, int64_t rows, int64_t columns) {
  const int64_t count = positions.length();
  require(rows > 0 && columns > 0, "a matrix has one row and one column at least");
  require_tables_fit(rows, columns), require_tables_fit(columns, rows);
  require(count <= MOST_WEIGHTS, "there are more weights than 32-bit numbers count");
  Rows made(rows, columns, count);
  uint16_t* const to = made.columns();
  int64_t row = 0, segment = 0, row_start = 0, last = -1;
  // the segments [0, number] of the present row have started
  const auto start_segments = [&](int64_t number, uint32_t k) {
    for (; segment <= number; segment++) made.start(segment, row) = k;
  };
  start_segments(0, 0);
  for (int64_t k = 0; k < count; k++) {
    const int64_t position = __atomic_load_n(positions.data() + k, __ATOMIC_RELAXED);
    require(position > last && position < rows * columns, "the positions do not ascend within the matrix");
    last = position;
    while (position - row_start >= columns) {
      start_segments(made.segment_count(), static_cast<uint32_t>(k));
      row++, row_start += columns, segment = 0;
      start_segments(0, static_cast<uint32_t>(k));
    }
    const int64_t column = position - row_start;
    if (column >= segment * SEGMENT) start_segments(column / SEGMENT, static_cast<uint32_t>(k));
    to[k] = static_cast<uint16_t>(column % SEGMENT);
  }
  for (; row < rows; row++, segment = 0) start_segments(made.segment_count(), static_cast<uint32_t>(count));
  return made;
}

// The same weights with rows and columns exchanged.
Rows transposed(const Rows& given) {
  Rows made(given.column_count(), given.rows(), given.count());
  std::vector<uint32_t> next(static_cast<size_t>(given.column_count()) + 1);
  given.for_each([&](int64_t, int64_t column, uint32_t) { next[column + 1]++; });
  for (size_t i = 1; i < next.size(); i++) next[i] += next[i - 1];
  uint16_t* const to = made.columns();
  int64_t segment = 0;
  const auto start_segment = [&] {
    for (int64_t row = 0; row < made.rows(); row++) made.start(segment, row) = next[row];
    segment++;
  };
  given.for_each([&](int64_t row, int64_t column, uint32_t) {
    while (row >= segment * SEGMENT) start_segment();
    to[next[column]++] = static_cast<uint16_t>(row % SEGMENT);
  });
  while (segment <= made.segment_count()) start_segment();
  return made;
}

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

class SparsityPattern {
 public:
  SparsityPattern(nb::handle positions, Integer outputs, Integer inputs)
      : by_output_(rows_of(Positions("positions", positions), outputs, inputs)) {}

  int64_t outputs() const { return by_output_.rows(); }
  int64_t inputs() const { return by_output_.column_count(); }
  int64_t count() const { return by_output_.count(); }

  Rows& by_output() { return by_output_; }
  Rows& by_input() {
    if (!by_input_) by_input_.emplace(transposed(by_output_));
    return *by_input_;
  }

  // Read-only views of all arrays that were made so far, which keep `self` alive.
  static nb::list arrays(nb::object self) {
    nb::list views;
    const auto& pattern = nb::cast<const SparsityPattern&>(self);
    const auto append = [&](const auto* data, size_t size) {
      using Number = std::remove_pointer_t<decltype(data)>;
      views.append(nb::ndarray<nb::numpy, Number, nb::ndim<1>>(data, {size}, self));
    };
    pattern.by_output_.for_each_array(append);
    if (pattern.by_input_) pattern.by_input_->for_each_array(append);
    return views;
  }

 private:
  Rows by_output_;
  std::optional<Rows> by_input_;
};

class LinearKernels {
 public:
  explicit LinearKernels(const std::string& name, bool rounded) {
    const LinearTables tables = find_linear_kernels(name.c_str());
    rounded_ = rounded && tables.bfloat16, table_ = rounded_ ? tables.bfloat16 : tables.float32;
    if (!table_) throw std::invalid_argument("this processor has no kernels named '" + name + "'");
  }

  bool rounded() const { return rounded_; }

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
    LinearParams params{};
    params.by_output = pattern.by_output().tiled(tile_of(pattern.by_output(), bytes_per_feature(x)));
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
    LinearGradientsParams params = read_by(gradient, pattern, threads);
    set_weights(params, x, gradient, pattern, gradients);
    nb::gil_scoped_release release;
    table_->gradients(params);
  }

  void input_gradient(const Activation& gradient, SparsityPattern& pattern, nb::handle given_values,
                      const Activation& out, const Activation* add, Integer given_threads) const {
    const int threads = thread_count(given_threads);
    const ReadonlyFloats values = values_of(pattern, given_values);
    LinearGradientsParams params = read_by(gradient, pattern, threads);
    set_inputs(params, gradient, pattern, values, out, add);
    nb::gil_scoped_release release;
    table_->gradients(params);
  }

  void backward(const Activation& x, const Activation& gradient, SparsityPattern& pattern, nb::handle given_values,
                nb::handle given_gradients, const Activation& out, const Activation* add, Integer given_threads) const {
    const int threads = thread_count(given_threads);
    const ReadonlyFloats values = values_of(pattern, given_values);
    const Floats gradients = gradients_of(pattern, given_gradients);
    LinearGradientsParams params = read_by(gradient, pattern, threads);
    set_weights(params, x, gradient, pattern, gradients);
    set_inputs(params, gradient, pattern, values, out, add);
    require_disjoint(out.memory(), {x.memory(), gradients.memory()});
    require_disjoint(gradients.memory(), {values.memory()});
    if (add) require_disjoint(gradients.memory(), {add->memory()});
    nb::gil_scoped_release release;
    table_->gradients(params);
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

  LinearGradientsParams read_by(const Activation& gradient, SparsityPattern& pattern, int threads) const {
    require_features(gradient, pattern.outputs());
    LinearGradientsParams params{};
    params.by_output = pattern.by_output().tiled(tile_of(pattern.by_output(), bytes_per_feature(gradient)));
    params.gradient = data(gradient), params.vectors = gradient.extent.width;
    params.cache_bytes = cache_sizes().second, params.threads = threads;
    return params;
  }

  void set_weights(LinearGradientsParams& params, const Activation& x, const Activation& gradient,
                   const SparsityPattern& pattern, const Floats& gradients) const {
    require_features(x, pattern.inputs()), require_one_batch(x, gradient);
    require_disjoint(gradients.memory(), {x.memory(), gradient.memory()});
    params.x = data(x), params.weights = gradients.data();
  }

  void set_inputs(LinearGradientsParams& params, const Activation& gradient, SparsityPattern& pattern,
                  const ReadonlyFloats& values, const Activation& out, const Activation* add) const {
    require_features(out, pattern.inputs()), require_one_batch(out, gradient);
    require_disjoint(out.memory(), {gradient.memory(), values.memory()});
    if (add) require_start(*add, out);
    params.by_input = pattern.by_input().tiled(tile_of(pattern.by_input(), bytes_per_feature(gradient)));
    params.ranges = pattern.by_output().tiled(range_of(pattern.by_output()));
    params.values = values.data(), params.inputs = data(out), params.add = add ? data(*add) : nullptr;
  }

  const LinearTable* table_;
  bool rounded_;
};

}  // namespace

void add_linear(nb::module_& module) {
  nb::class_<SparsityPattern>(module, "SparsityPattern",
                              R"(The positions of the active weights of a matrix (outputs, inputs).

``positions`` are row-major and ascend; values and gradients of the weights have the same order. They are copied, as
16 bits each. What the kernels need in addition is made when it is first needed.)")
      .def(nb::init<nb::handle, Integer, Integer>(), "positions"_a.none(), "outputs"_a, "inputs"_a,
           nb::sig("def __init__(self, positions: " POSITIONS ", outputs: int, inputs: int) -> None"))
      .def_prop_ro("count", &SparsityPattern::count, "The number of active weights.")
      .def_prop_ro("arrays", &SparsityPattern::arrays, "All arrays that were made so far; read-only.",
                   nb::for_getter(nb::sig("def arrays(self) -> list[" ANY_ARRAY "]")));
  nb::class_<LinearKernels>(
      module, "LinearKernels",
      R"(The kernels of linear layers for one instruction set, which are named as those of :class:`Kernels`.

All activations are features of one batch. Values and gradients are in the order of the pattern's positions.

With ``rounded`` the outputs and the weights' gradients are sums, in float32, of products of numbers that are
rounded to bfloat16, where the processor has instructions for this (AVX512_BF16); where it has none, nothing is
rounded. The inputs' gradients are always computed in float32.)")
      .def(nb::init<const std::string&, bool>(), "name"_a = "", "rounded"_a = false)
      .def_prop_ro("rounded", &LinearKernels::rounded, "Whether numbers are rounded before they are multiplied.")
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
