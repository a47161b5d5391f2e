// Which pixels of which buffers a list convolution goes over.
#pragma once

#include "checked.hpp"

namespace sparsecore {

// Which pixels a list convolution goes over: every `out_step`th output from (row, column) on, every `x_step`th input.
struct Steps {
  static constexpr int64_t MOST = std::numeric_limits<int32_t>::max();

  int64_t x_step, out_step, row, column;

  Steps(int64_t x_step, int64_t out_step, int64_t row, int64_t column)
      : x_step(x_step), out_step(out_step), row(row), column(column) {
    expect(x_step > 0 && out_step > 0 && row >= 0 && column >= 0, "steps are positive, rows and columns not negative");
    expect(std::max({x_step, out_step, row, column}) <= MOST, "steps, rows and columns fit into 32 bits");
  }
};

inline Pixels stepped(Pixels pixels, int64_t step) {
  pixels.row = product_of(pixels.row, step);
  pixels.pixel = product_of(pixels.pixel, step);
  return pixels;
}

struct Plan {
  Input x;
  Pixels out;
  Extent extent;
  int64_t out_step;
  int64_t shift = 0;  // of the first output from the inside's start, in values

  Plan(const Read& read, const Activation& made, const Weights& weights, const Steps& steps, int lanes)
      : x(read.input(steps.x_step)),
        // a wider step than the image is leads nowhere, and memory is not fetched ahead there either
        out_step(std::min(steps.out_step, std::max(made.extent.height, made.extent.width))) {
    const Activation& given = read.pixels;
    expect(given.lanes() == lanes && made.lanes() == lanes, "the buffers have another number of lanes than the kernels");
    expect(given.bytes() == made.bytes(), "input and output are stored as different types");
    expect(given.extent.blocks == made.extent.blocks && given.extent.last_lanes == made.extent.last_lanes &&
               given.extent.features == made.extent.features,
           "input and output are of different batches");
    const bool every = steps.x_step == 1 && steps.out_step == 1 && steps.row == 0 && steps.column == 0;
    expect(!made.extent.features || (every && given.extent.width == made.extent.width),
           "features are read and made without steps, and of one batch");
    expect(weights.channels == made.extent.channels, "the list has another number of channels than the output");
    expect((weights.bits & (lanes - 1)) == 0, "an offset is no multiple of the lanes");
    const auto counted = [&](int64_t side, int64_t first) {
      return first < side ? (side - first + steps.out_step - 1) / steps.out_step : int64_t{0};
    };
    extent = made.extent;
    extent.height = counted(made.extent.height, steps.row);
    extent.width = counted(made.extent.width, steps.column);
    if (empty()) return;
    shift = steps.row * made.pixels.row + steps.column * made.pixels.pixel;
    out = stepped(made.pixels, out_step);
    out.data = beyond(out.data, shift, made.bytes());
    if (weights.offsets->empty()) {  // then nothing is read, and the rows that are prepared might be any
      x.step = 1;
      return;
    }
    const Pixels reach = stepped(given.pixels, steps.x_step);
    const int64_t right = product_of(extent.width - 1, reach.pixel);
    const int64_t farthest = sum_of(sum_of(product_of(extent.height - 1, reach.row), right), weights.most);
    expect(given.start + weights.least >= 0 && sum_of(given.start + lanes, farthest) <= reach.block,
           "the list reads beyond the input's border");
    // the rows that the first output of a row reads from, and the last one to
    const int64_t margin = given.border * given.pixels.pixel;
    x.first_row = row_of(weights.least + margin, given.pixels.row);
    x.last_row = row_of(sum_of(right, weights.most + margin), given.pixels.row);
  }

  bool empty() const { return extent.height <= 0 || extent.width <= 0; }

 private:
  static int64_t row_of(int64_t offset, int64_t row) {
    return offset >= 0 ? offset / row : -((row - 1 - offset) / row);
  }
};

}  // namespace sparsecore
