// Convolutions of one image for Python; as everywhere, arrays are checked here.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <optional>
#include <string>

#include "checked.hpp"

using namespace nanobind::literals;

namespace sparsecore {
namespace {

// The first pixel of the first channel lies at `start` of the memory.
class RowConvolution {
 public:
  RowConvolution(const std::string& kernels_name, nb::handle x, Integer x_start, nb::handle out, Integer out_start,
                 Integer channel, nb::handle add, nb::handle pointers, nb::handle offsets, nb::handle values,
                 nb::handle bias, nb::handle inside, float floor)
      : table_(kernels(kernels_name.c_str()).floats), x_("x", x), out_("out", out),
        pointers_(copied(ReadPlaces("pointers", pointers))), offsets_(copied(ReadPlaces("offsets", offsets))),
        values_("values", values), bias_("bias", bias), inside_("inside", inside) {
    expect(table_, "this processor has no kernels of that name");
    if (!add.is_none()) add_.emplace("add", add);
    expect_list(), expect_outputs(out_start, channel), expect_inputs(x_start), expect_memory();
    rows_ = {x_.data() + x_start, out_.data() + out_start, add_ ? add_->data() + out_start : nullptr,
             bias_.data(), inside_.data(), pointers_->data(), offsets_->data(), values_.data(),
             channel, bias_.length(), inside_.length(), floor};
  }

  void run(Integer given_threads) const {
    const int threads = thread_count(given_threads);
    nb::gil_scoped_release others_may_run;
    table_->convolve_rows(rows_, threads);
  }

 private:
  void expect_list() const {
    expect(bias_.length() > 0, "there is one channel at least");
    expect(static_cast<int64_t>(pointers_->size()) - 1 == bias_.length(), "list and bias have one entry a channel");
    expect_pointers(*pointers_, *offsets_);
    expect(values_.length() == static_cast<int64_t>(offsets_->size()), "there are not as many values as offsets");
  }

  void expect_outputs(int64_t start, int64_t channel) const {
    const int64_t pixels = inside_.length();
    expect(pixels > 0 && pixels % 16 == 0 && pixels <= channel, "the outputs of a channel do not fit in whole vectors");
    const int64_t others = product_of(bias_.length() - 1, channel);
    expect(start >= 0 && sum_of(sum_of(start, others), pixels) <= out_.length(), "the outputs do not fit their memory");
    expect(!add_ || add_->length() == out_.length(), "what is added has other memory than the outputs");
  }

  void expect_inputs(int64_t start) const {
    expect(start >= 0 && start <= x_.length(), "the input starts outside its memory");
    if (offsets_->empty()) return;
    const auto [least, most] = std::minmax_element(offsets_->begin(), offsets_->end());
    expect(start + *least >= 0 && start + *most + inside_.length() <= x_.length(), "the list reads beyond the input");
  }

  // What is added may lie where the outputs do.
  void expect_memory() const {
    expect_apart(out_.span(), {x_.span(), values_.span(), bias_.span(), inside_.span()});
    if (add_ && !add_->span().equals(out_.span())) expect_apart(out_.span(), {add_->span()});
  }

  const Kernels* table_;
  ReadFloats x_;
  Floats out_;
  std::optional<ReadFloats> add_;
  Copy pointers_, offsets_;
  ReadFloats values_, bias_, inside_;
  Rows rows_;
};

}  // namespace

void add_rows(nb::module_& module) {
  nb::class_<RowConvolution>(module, "RowConvolution")
      .def(nb::init<const std::string&, nb::handle, Integer, nb::handle, Integer, Integer, nb::handle, nb::handle,
                    nb::handle, nb::handle, nb::handle, nb::handle, float>(),
           "kernels"_a, "x"_a.none(), "x_start"_a, "out"_a.none(), "out_start"_a, "channel"_a, "add"_a.none(), "pointers"_a.none(),
           "offsets"_a.none(), "values"_a.none(), "bias"_a.none(), "inside"_a.none(), "floor"_a)
      .def("run", &RowConvolution::run, "threads"_a);
}

}  // namespace sparsecore
