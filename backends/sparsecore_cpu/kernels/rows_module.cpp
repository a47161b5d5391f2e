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

using Plane = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Places = nb::ndarray<int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void expect(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

template <class Array>
int64_t length(const Array& array, int axis = 0) {
  return static_cast<int64_t>(array.shape(axis));
}

bool aligned(const float* memory) { return reinterpret_cast<uintptr_t>(memory) % 64 == 0; }

// Planes are (channels, floats a channel), and the first pixel of each channel lies at `start`.
class RowConvolution {
 public:
  RowConvolution(const std::string& kernels_name, Plane x, int64_t x_start, Plane out, int64_t out_start,
                 std::optional<Plane> add, Places pointers, Places offsets, Floats values, Floats bias, Floats inside,
                 float floor)
      : table_(kernels(kernels_name.c_str())), x_(x), out_(out), add_(add), pointers_(pointers), offsets_(offsets),
        values_(values), bias_(bias), inside_(inside) {
    expect(table_, "this processor has no kernels of that name");
    expect_list(), expect_outputs(out_start), expect_inputs(x_start);
    rows_ = {x.data() + x_start, out.data() + out_start, add ? add->data() + out_start : nullptr,
             bias.data(), inside.data(), pointers.data(), offsets.data(), values.data(),
             length(out, 1), length(out), length(inside), floor};
  }

  void run(int threads) const {
    nb::gil_scoped_release others_may_run;
    table_->convolve_rows(rows_, threads);
  }

 private:
  void expect_list() const {
    const int64_t channels = length(out_);
    expect(length(pointers_) == channels + 1 && length(bias_) == channels, "list and bias have one entry a channel");
    const int32_t* first = pointers_.data();
    expect(first[0] == 0 && first[channels] == length(offsets_) && std::is_sorted(first, first + channels + 1),
           "the pointers do not run from 0 to the number of weights");
    expect(length(values_) == length(offsets_), "there are not as many values as offsets");
  }

  void expect_outputs(int64_t start) const {
    const int64_t room = length(out_, 1), pixels = length(inside_);
    expect(start >= 0 && start % 16 == 0 && room % 16 == 0 && pixels % 16 == 0 && start + pixels <= room,
           "the outputs do not lie in their buffer in whole cache lines");
    expect(aligned(out_.data()) && aligned(inside_.data()) && (!add_ || aligned(add_->data())),
           "a buffer does not start at a cache line");
    expect(!add_ || (length(*add_) == length(out_) && length(*add_, 1) == room), "both buffers must have one shape");
  }

  void expect_inputs(int64_t start) const {
    if (!length(offsets_)) return;
    const auto [least, most] = std::minmax_element(offsets_.data(), offsets_.data() + length(offsets_));
    expect(start + *least >= 0 && start + *most + length(inside_) <= static_cast<int64_t>(x_.size()),
           "the list reads beyond the input");
  }

  const Kernels* table_;
  Plane x_, out_;
  std::optional<Plane> add_;
  Places pointers_, offsets_;
  Floats values_, bias_, inside_;
  Rows rows_;
};

}  // namespace

void add_rows(nb::module_& module) {
  nb::class_<RowConvolution>(module, "RowConvolution")
      .def(nb::init<const std::string&, Plane, int64_t, Plane, int64_t, std::optional<Plane>, Places, Places, Floats,
                    Floats, Floats, float>(),
           "kernels"_a, "x"_a.noconvert(), "x_start"_a, "out"_a.noconvert(), "out_start"_a, "add"_a.none().noconvert(),
           "pointers"_a.noconvert(), "offsets"_a.noconvert(), "values"_a.noconvert(), "bias"_a.noconvert(),
           "inside"_a.noconvert(), "floor"_a)
      .def("run", &RowConvolution::run, "threads"_a);
}

}  // namespace sparsecore
