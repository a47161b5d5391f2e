// Convolutions and max pooling of one image for Python.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <string>

#include "bindings/operands.hpp"
#include "runtime/thread_pool.hpp"

using namespace nanobind::literals;

namespace sparsecore {
namespace {

class RowConvolution {
 public:
  RowConvolution(const std::string& kernels, nb::handle x, Integer x_start, nb::handle out, Integer out_start,
                 Integer channel_stride, nb::handle add, nb::handle pointers, nb::handle offsets, nb::handle values,
                 nb::handle bias, nb::handle inside, float floor, float ceiling)
      : table_(find_kernels(kernels.c_str()).float32),
        x_("x", x),
        out_("out", out),
        pointers_(copy_indices(ReadonlyIndices("pointers", pointers))),
        offsets_(copy_indices(ReadonlyIndices("offsets", offsets))),
        values_("values", values),
        bias_("bias", bias),
        inside_("inside", inside) {
    require(table_, "this processor has no kernels of that name");
    if (!add.is_none()) add_.emplace("add", add);
    require_weights(), require_outputs(out_start, channel_stride), require_inputs(x_start), require_memory();
    params_.x = x_.data() + x_start, params_.out = out_.data() + out_start;
    params_.add = add_ ? add_->data() + out_start : nullptr;
    params_.bias = bias_.data(), params_.inside = inside_.data();
    params_.pointers = pointers_->data(), params_.offsets = offsets_->data(), params_.values = values_.data();
    params_.channel_stride = channel_stride, params_.channels = bias_.length(), params_.pixels = inside_.length();
    params_.floor = floor, params_.ceiling = ceiling;
  }

  void run(Integer given_threads) const {
    const int threads = thread_count(given_threads);
    nb::gil_scoped_release release;
    table_->convolve_rows(params_, threads);
  }

 private:
  void require_weights() const {
    require(bias_.length() > 0, "there is one channel at least");
    require(static_cast<int64_t>(pointers_->size()) - 1 == bias_.length(), "list and bias have one entry a channel");
    require_pointers(*pointers_, *offsets_);
    require(values_.length() == static_cast<int64_t>(offsets_->size()), "there are not as many values as offsets");
  }

  void require_outputs(int64_t start, int64_t channel_stride) const {
    const int64_t pixels = inside_.length();
    require(pixels > 0 && pixels % 16 == 0 && pixels <= channel_stride,
            "the outputs of a channel do not fit in whole vectors");
    const int64_t last_channel = checked_product(bias_.length() - 1, channel_stride);
    require(start >= 0 && checked_sum(checked_sum(start, last_channel), pixels) <= out_.length(),
            "the outputs do not fit their memory");
    require(!add_ || add_->length() == out_.length(), "what is added has other memory than the outputs");
  }

  void require_inputs(int64_t start) const {
    require(start >= 0 && start <= x_.length(), "the input starts outside its memory");
    if (offsets_->empty()) return;
    const auto [lowest, highest] = std::minmax_element(offsets_->begin(), offsets_->end());
    require(start + *lowest >= 0 && start + *highest + inside_.length() <= x_.length(),
            "the list reads beyond the input");
  }

  // `add` may be the outputs themselves.
  void require_memory() const {
    require_disjoint(out_.memory(), {x_.memory(), values_.memory(), bias_.memory(), inside_.memory()});
    if (add_ && !add_->memory().equals(out_.memory())) require_disjoint(out_.memory(), {add_->memory()});
  }

  const KernelTable* table_;
  ReadonlyFloats x_;
  Floats out_;
  std::optional<ReadonlyFloats> add_;
  IndexCopy pointers_, offsets_;
  ReadonlyFloats values_, bias_, inside_;
  RowConvolutionParams params_{};
};

// The largest input at some offsets from the output's own position, channel by channel.
class RowMaximum {
 public:
  RowMaximum(nb::handle x, Integer x_start, Integer x_stride, nb::handle out, Integer out_start, Integer out_stride,
             Integer channels, nb::handle offsets, nb::handle inside)
      : x_("x", x),
        out_("out", out),
        offsets_(copy_indices(ReadonlyIndices("offsets", offsets))),
        inside_("inside", inside),
        x_start_(x_start),
        x_stride_(x_stride),
        out_start_(out_start),
        out_stride_(out_stride),
        channels_(channels) {
    const int64_t pixels = inside_.length();
    require(channels_ > 0 && x_stride_ >= 0, "there is one channel at least, and each lies behind the one before");
    require(pixels > 0 && pixels % PIXELS == 0 && pixels <= out_stride_,
            "the outputs of a channel do not fit in whole vectors");
    const int64_t last_output = checked_product(channels_ - 1, out_stride_);
    require(out_start_ >= 0 && checked_sum(checked_sum(out_start_, last_output), pixels) <= out_.length(),
            "the outputs do not fit their memory");
    require(!offsets_->empty(), "there is one offset at least");
    const auto [lowest, highest] = std::minmax_element(offsets_->begin(), offsets_->end());
    const int64_t last_input = checked_sum(checked_product(channels_ - 1, x_stride_), checked_sum(*highest, pixels));
    require(x_start_ >= 0 && x_start_ <= x_.length() && x_start_ + *lowest >= 0 &&
                checked_sum(x_start_, last_input) <= x_.length(),
            "the offsets read beyond the input");
    require_disjoint(out_.memory(), {x_.memory(), inside_.memory()});
  }

  void run(Integer given_threads) const {
    const int threads = thread_count(given_threads);
    nb::gil_scoped_release release;
    parallel_for(channels_, threads, [&](int64_t channel) {
      const float* from = x_.data() + x_start_ + channel * x_stride_;
      float* to = out_.data() + out_start_ + channel * out_stride_;
      for (int64_t i = 0; i < inside_.length(); i += PIXELS) write_maxima(from + i, inside_.data() + i, to + i);
    });
  }

 private:
  typedef float Vector __attribute__((vector_size(16), aligned(4), may_alias));
  static constexpr int64_t PIXELS = 16, LANES = 4;  // at a time, in registers

  void write_maxima(const float* from, const float* inside, float* to) const {
    constexpr int VECTORS = PIXELS / LANES;
    Vector greatest[VECTORS];
    for (int v = 0; v < VECTORS; v++) greatest[v] = *vector_at(from + offsets_->front() + v * LANES);
    for (const int32_t offset : *offsets_)
      for (int v = 0; v < VECTORS; v++) {
        const Vector x = *vector_at(from + offset + v * LANES);
        greatest[v] = (x > greatest[v]) | (x != x) ? x : greatest[v];  // what is not a number stays so
      }
    for (int v = 0; v < VECTORS; v++) {
      const Vector zeros{};
      Vector* out = reinterpret_cast<Vector*>(to + v * LANES);
      *out = *vector_at(inside + v * LANES) > zeros ? greatest[v] : zeros;
    }
  }

  static const Vector* vector_at(const float* from) { return reinterpret_cast<const Vector*>(from); }

  ReadonlyFloats x_;
  Floats out_;
  IndexCopy offsets_;
  ReadonlyFloats inside_;
  int64_t x_start_, x_stride_, out_start_, out_stride_, channels_;
};

using Pixels = Array<float, 3, false>;  // (channels, height, width), any strides
using ReadonlyPixels = Array<const float, 3, false>;

// With the step known at compile time, the compiler makes vectors of it.
template <int STEP>
void copy_row(const float* from, float* to, int64_t width) {
  for (int64_t column = 0; column < width; column++) to[column] = from[column * STEP];
}

void copy_row(const float* from, int64_t step, float* to, int64_t width) {
  if (step == 1) return copy_row<1>(from, to, width);
  if (step == 2) return copy_row<2>(from, to, width);
  for (int64_t column = 0; column < width; column++) to[column] = from[column * step];
}

void copy_pixels(nb::handle given_x, nb::handle given_out, Integer given_threads) {
  const int threads = thread_count(given_threads);
  const ReadonlyPixels x("x", given_x);
  const Pixels out("out", given_out);
  for (int axis = 0; axis < 3; axis++) require(x.length(axis) == out.length(axis), "both must have one shape");
  require(out.length(2) <= 1 || out.stride(2) == 1, "the pixels of a row of the outputs are not behind each other");
  require_disjoint(out.memory(), {x.memory()});
  nb::gil_scoped_release release;
  parallel_for(x.length(0), threads, [&](int64_t channel) {
    const float* from = x.data() + channel * x.stride(0);
    float* to = out.data() + channel * out.stride(0);
    for (int64_t row = 0; row < x.length(1); row++)
      copy_row(from + row * x.stride(1), x.stride(2), to + row * out.stride(1), x.length(2));
  });
}

}  // namespace

void add_row_convolution(nb::module_& module) {
  module.def("copy_pixels", &copy_pixels, "x"_a.none(), "out"_a.none(), "threads"_a,
             "Copies images (channels, height, width) of any strides into ones whose rows are contiguous.",
             nb::sig("def copy_pixels(x: " FLOATS ", out: " FLOATS ", threads: int) -> None"));
  nb::class_<RowConvolution>(module, "RowConvolution",
                             R"(A convolution of one image: out = min(max(add + bias + weights∗x, floor), ceiling).

Each channel is contiguous, row behind row with zeros between the rows. The first pixel of the first channel is at
``x_start`` and ``out_start``, and the output channels are ``channel_stride`` floats apart. The weights of an output
channel are those from its pointer to the next; each reads at its offset from the output's own position. ``inside``
is 1 for the outputs inside the image and 0 for those between its rows, which become zero.)")
      .def(nb::init<const std::string&, nb::handle, Integer, nb::handle, Integer, Integer, nb::handle, nb::handle,
                    nb::handle, nb::handle, nb::handle, nb::handle, float, float>(),
           nb::kw_only(), "kernels"_a, "x"_a.none(), "x_start"_a, "out"_a.none(), "out_start"_a, "channel_stride"_a,
           "add"_a.none(), "pointers"_a.none(), "offsets"_a.none(), "values"_a.none(), "bias"_a.none(),
           "inside"_a.none(), "floor"_a, "ceiling"_a = std::numeric_limits<float>::infinity(),
           nb::sig("def __init__(self, *, kernels: str, x: " FLOATS ", x_start: int, out: " FLOATS
                   ", out_start: int, channel_stride: int, add: " FLOATS " | None, pointers: " INDICES
                   ", offsets: " INDICES ", values: " FLOATS ", bias: " FLOATS ", inside: " FLOATS
                   ", floor: float, ceiling: float = ...) -> None"))
      .def("run", &RowConvolution::run, "threads"_a, "Computes the outputs from the present content of the input.",
           nb::sig("def run(self, threads: int) -> None"));
  nb::class_<RowMaximum>(module, "RowMaximum",
                         R"(Max pooling of one image that lies in memory as for :class:`RowConvolution`.

Each output is the greatest of the inputs at ``offsets`` from its own position in its channel. The first pixel of
the first channel is at ``x_start`` and ``out_start``; channels are ``x_stride`` and ``out_stride`` floats apart.)")
      .def(nb::init<nb::handle, Integer, Integer, nb::handle, Integer, Integer, Integer, nb::handle, nb::handle>(),
           nb::kw_only(), "x"_a.none(), "x_start"_a, "x_stride"_a, "out"_a.none(), "out_start"_a, "out_stride"_a,
           "channels"_a, "offsets"_a.none(), "inside"_a.none(),
           nb::sig("def __init__(self, *, x: " FLOATS ", x_start: int, x_stride: int, out: " FLOATS
                   ", out_start: int, out_stride: int, channels: int, offsets: " INDICES ", inside: " FLOATS
                   ") -> None"))
      .def("run", &RowMaximum::run, "threads"_a, "Computes the outputs from the present content of the input.",
           nb::sig("def run(self, threads: int) -> None"));
}

}  // namespace sparsecore
