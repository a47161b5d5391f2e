// Convolutions of one image for Python; as everywhere, arrays are checked here.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <stdexcept>

#include "kernels.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace sparsecore {
namespace {

using Floats = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Places = nb::ndarray<int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void expect(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

template <class Array>
int64_t length(const Array& array) {
  return static_cast<int64_t>(array.shape(0));
}

// The first pixel of the first channel lies at `start` of the memory.
class RowConvolution {
 public:
  RowConvolution(const std::string& kernels_name, Floats x, int64_t x_start, Floats out, int64_t out_start,
                 int64_t channel, std::optional<Floats> add, Places pointers, Places offsets, Floats values,
                 Floats bias, Floats inside, float floor)
      : table_(kernels(kernels_name.c_str()).floats), x_(x), out_(out), add_(add), pointers_(pointers), offsets_(offsets),
        values_(values), bias_(bias), inside_(inside) {
    expect(table_, "this processor has no kernels of that name");
    expect_list(), expect_outputs(out_start, channel), expect_inputs(x_start);
    rows_ = {x.data() + x_start, out.data() + out_start, add ? add->data() + out_start : nullptr,
             bias.data(), inside.data(), pointers.data(), offsets.data(), values.data(),
             channel, length(bias), length(inside), floor};
  }

  void run(int threads) const {
    nb::gil_scoped_release others_may_run;
    table_->convolve_rows(rows_, threads);
  }

 private:
  void expect_list() const {
    const int64_t channels = length(bias_);
    expect(length(pointers_) == channels + 1, "list and bias have one entry a channel");
    const int32_t* first = pointers_.data();
    expect(first[0] == 0 && first[channels] == length(offsets_) && std::is_sorted(first, first + channels + 1),
           "the pointers do not run from 0 to the number of weights");
    expect(length(values_) == length(offsets_), "there are not as many values as offsets");
  }

  void expect_outputs(int64_t start, int64_t channel) const {
    const int64_t pixels = length(inside_), end = start + (length(bias_) - 1) * channel + pixels;
    expect(pixels % 16 == 0 && pixels <= channel, "the outputs of a channel do not fit in whole vectors");
    expect(start >= 0 && (!length(bias_) || end <= length(out_)), "the outputs do not fit their memory");
    expect(!add_ || length(*add_) == length(out_), "what is added has other memory than the outputs");
  }

  void expect_inputs(int64_t start) const {
    if (!length(offsets_)) return;
    const auto [least, most] = std::minmax_element(offsets_.data(), offsets_.data() + length(offsets_));
    expect(start + *least >= 0 && start + *most + length(inside_) <= length(x_),
           "the list reads beyond the input");
  }

  const Kernels* table_;
  Floats x_, out_;
  std::optional<Floats> add_;
  Places pointers_, offsets_;
  Floats values_, bias_, inside_;
  Rows rows_;
};

}  // namespace

void add_rows(nb::module_& module) {
  nb::class_<RowConvolution>(module, "RowConvolution")
      .def(nb::init<const std::string&, Floats, int64_t, Floats, int64_t, int64_t, std::optional<Floats>, Places, Places,
                    Floats, Floats, Floats, float>(),
           "kernels"_a, "x"_a, "x_start"_a, "out"_a, "out_start"_a, "channel"_a, "add"_a.none(), "pointers"_a,
           "offsets"_a, "values"_a, "bias"_a, "inside"_a, "floor"_a)
      .def("run", &RowConvolution::run, "threads"_a);
}

}  // namespace sparsecore
