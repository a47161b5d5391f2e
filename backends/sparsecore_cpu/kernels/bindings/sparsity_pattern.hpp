// The positions of a matrix's active weights, for Python.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <optional>
#include <stdexcept>

#include "bindings/active_blocks.hpp"
#include "bindings/sparsity_rows.hpp"

namespace sparsecore {

class SparsityPattern {
 public:
  SparsityPattern(nb::handle positions, Integer outputs, Integer inputs, Integer threads)
      : by_output_(rows_of_any(positions, outputs, inputs, thread_count(threads))) {}

  int64_t outputs() const { return by_output_.rows(); }
  int64_t inputs() const { return by_output_.column_count(); }
  int64_t count() const { return by_output_.count(); }

  Rows& by_output() { return by_output_; }
  Rows& by_input(int threads) {
    if (!by_input_) by_input_.emplace(transposed(by_output_, threads));
    return *by_input_;
  }

  // The blocks that the weights make up; null where they are no whole blocks.
  const ActiveBlocks* blocks() {
    if (!are_blocks_known_) blocks_ = ActiveBlocks::of(by_output_), are_blocks_known_ = true;
    return blocks_ ? &*blocks_ : nullptr;
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
    if (pattern.blocks_) pattern.blocks_->for_each_array(append);
    return views;
  }

 private:
  static Rows rows_of_any(nb::handle positions, int64_t outputs, int64_t inputs, int threads) {
    const auto type = any_array<const int64_t>("positions", positions).dtype();
    if (type == nb::dtype<int32_t>())
      return rows_of(Positions<int32_t>("positions", positions), outputs, inputs, threads);
    if (type == nb::dtype<int64_t>())
      return rows_of(Positions<int64_t>("positions", positions), outputs, inputs, threads);
    throw std::invalid_argument("positions must be an array of int32 or int64; given one of " + dtype_name(type));
  }

  Rows by_output_;
  std::optional<Rows> by_input_;
  std::optional<ActiveBlocks> blocks_;
  bool are_blocks_known_ = false;
};

}  // namespace sparsecore
