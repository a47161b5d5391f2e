// Plans a convolution: which pixels of its buffers it reads and writes, and that all of them are inside the buffers.
#pragma once

#include "bindings/operands.hpp"

namespace sparsecore {

// The distance in pixels from one pixel to the next, down and to the right.
struct Step {
  int64_t row, column;

  bool operator==(const Step& other) const { return row == other.row && column == other.column; }
  bool is(int64_t step) const { return row == step && column == step; }
};

// The pixels of a convolution: every `out`-th output from (row, column) on, each `x` input pixels further on.
struct Steps {
  static constexpr int64_t MOST = std::numeric_limits<int32_t>::max();

  Step x, out;
  int64_t row, column;

  Steps(Step x, Step out, int64_t row, int64_t column) : x(x), out(out), row(row), column(column) {
    require(std::min({x.row, x.column, out.row, out.column}) > 0 && row >= 0 && column >= 0,
            "steps are positive, rows and columns not negative");
    require(std::max({x.row, x.column, out.row, out.column, row, column}) <= MOST,
            "steps, rows and columns fit into 32 bits");
  }

  bool are_all_pixels() const { return x.is(1) && are_all_outputs(); }
  bool are_all_outputs() const { return out.is(1) && row == 0 && column == 0; }
};

// Every step-th pixel of a view.
inline ActivationView every(ActivationView view, Step step) {
  view.row_stride = checked_product(view.row_stride, step.row);
  view.pixel_stride = checked_product(view.pixel_stride, step.column);
  return view;
}

struct Plan {
  ConvolutionInput x;
  ActivationView out;
  Extent extent;  // of the outputs
  Step out_step;
  int64_t out_offset = 0;  // of the first output from the first pixel of the buffer, in values
  WeightList list;
  bool is_empty_list;
  std::shared_ptr<const OwnPixelChannels> own_pixel;  // what `list` refers to, or null

  Plan(const Input& input, const Activation& output, const Weights& weights, const Steps& steps, int lanes)
      : x(input.convolution_input(steps.x.row, steps.x.column)),
        // A step wider than the image reaches no second output. It is clamped so that no stride overflows, and so that
        // prefetching does not leave the buffer.
        out_step{std::min(steps.out.row, longest_side(output)), std::min(steps.out.column, longest_side(output))},
        list(weights.list()),
        is_empty_list(weights.offsets->empty() && !weights.bundled) {
    const Activation& read = input.pixels;
    require(read.lanes() == lanes && output.lanes() == lanes,
            "the buffers have another number of lanes than the kernels");
    require(read.value_bytes() == output.value_bytes(), "input and output are stored as different types");
    require(read.extent.blocks == output.extent.blocks && read.extent.last_lanes == output.extent.last_lanes &&
                read.extent.features == output.extent.features,
            "input and output are of different batches");
    require(!output.extent.features || (steps.are_all_pixels() && read.extent.width == output.extent.width),
            "features are read and made without steps, and of one batch");
    require(weights.channels == output.extent.channels, "the list has another number of channels than the output");
    require((weights.offset_bits & (lanes - 1)) == 0, "an offset is no multiple of the lanes");
    const auto outputs = [](int64_t side, int64_t first, int64_t step) {
      return first < side ? (side - first + step - 1) / step : int64_t{0};
    };
    extent = output.extent;
    extent.height = outputs(output.extent.height, steps.row, steps.out.row);
    extent.width = outputs(output.extent.width, steps.column, steps.out.column);
    if (empty()) return;
    out_offset = steps.row * output.view.row_stride + steps.column * output.view.pixel_stride;
    out = every(output.view, out_step);
    out.data = advance(out.data, out_offset, output.value_bytes());
    if (weights.offsets->empty()) {
      x.row_step = x.column_step = 1;  // no input is read, whichever rows are computed
      return;
    }
    const ActivationView strided = every(read.view, steps.x);
    const int64_t last_column = checked_product(extent.width - 1, strided.pixel_stride);
    const int64_t last_pixel = checked_sum(checked_product(extent.height - 1, strided.row_stride), last_column);
    const int64_t last_read = checked_sum(last_pixel, weights.highest_offset);
    require(
        read.start + weights.lowest_offset >= 0 && checked_sum(read.start + lanes, last_read) <= strided.block_stride,
        "the list reads beyond the input's border");
    // the rows that the first output of a row reads from, and the last one to
    const int64_t margin = read.border * read.view.pixel_stride;
    x.first_row = row_of(weights.lowest_offset + margin, read.view.row_stride);
    x.last_row = row_of(checked_sum(last_column, weights.highest_offset + margin), read.view.row_stride);
    const bool is_inside = (extent.height - 1) * steps.x.row < read.extent.height &&
                           (extent.width - 1) * steps.x.column < read.extent.width;
    if (is_inside) own_pixel = weights.own_pixel_channels(read);
    if (own_pixel) list.channels = own_pixel->channels.data();
  }

  bool empty() const { return extent.height <= 0 || extent.width <= 0; }

  // Whether no weight reads anything but the output's own pixel, and weights are listed one by one.
  bool reads_own_pixels() const { return own_pixel || is_empty_list; }

  ConvolutionParams params(const Activation* add, int threads) const {
    const void* start = add ? advance(add->view.data, out_offset, add->value_bytes()) : nullptr;
    return {x, out, start, list, extent, threads};
  }

 private:
  static int64_t longest_side(const Activation& x) { return std::max(x.extent.height, x.extent.width); }

  // Division that rounds down.
  static int64_t row_of(int64_t offset, int64_t row_stride) {
    return offset >= 0 ? offset / row_stride : -((row_stride - 1 - offset) / row_stride);
  }
};

}  // namespace sparsecore
