// Which pixels of which buffers a list convolution goes over.
#pragma once

#include "checked.hpp"

namespace sparsecore {

// Which pixels a list convolution goes over: every `out_step`th output from (row, column) on, every `x_step`th input.
struct Steps {
  int64_t x_step, out_step, row, column;
};

inline Pixels stepped(Pixels pixels, int64_t step) {
  pixels.row *= step;
  pixels.pixel *= step;
  return pixels;
}

struct Plan {
  Input x;
  Pixels out;
  Extent extent;
  int64_t shift;  // of the first output from the inside's start, in values

  Plan(const Read& read, const Activation& made, const Weights& weights, const Steps& steps, int lanes)
      : x(read.input(steps.x_step, &weights)) {
    const Activation& given = read.pixels;
    expect(steps.x_step > 0 && steps.out_step > 0 && steps.row >= 0 && steps.column >= 0, "steps are positive");
    expect(given.buffer.shape(4) == static_cast<size_t>(lanes) && made.buffer.shape(4) == static_cast<size_t>(lanes),
           "the buffers have another number of lanes than the kernels");
    expect(given.bytes() == made.bytes(), "input and output are stored as different types");
    expect(given.extent.blocks == made.extent.blocks && given.extent.last_lanes == made.extent.last_lanes,
           "input and output are of different batches");
    expect(weights.channels == made.extent.channels, "the list has another number of channels than the output");
    const auto counted = [&](int64_t side, int64_t first) {
      return first < side ? (side - first + steps.out_step - 1) / steps.out_step : int64_t{0};
    };
    extent = made.extent;
    extent.height = counted(made.extent.height, steps.row);
    extent.width = counted(made.extent.width, steps.column);
    shift = steps.row * made.pixels.row + steps.column * made.pixels.pixel;
    out = stepped(made.pixels, steps.out_step);
    out.data = beyond(out.data, shift, made.bytes());
    const Pixels reach = stepped(given.pixels, steps.x_step);
    const int64_t farthest = (extent.height - 1) * reach.row + (extent.width - 1) * reach.pixel + weights.most;
    expect(weights.offsets.shape(0) == 0 || empty() ||
               (given.start + weights.least >= 0 && given.start + farthest + lanes <= reach.block),
           "the list reads beyond the input's border");
  }

  bool empty() const { return extent.height <= 0 || extent.width <= 0; }
};

}  // namespace sparsecore
