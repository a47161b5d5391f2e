// What becomes of the outputs of a convolution before they are stored: nothing, sums, or a mask and sums.
#pragma once

#include "scratch.hpp"
#include "tiles.hpp"

namespace SPARSECORE_VARIANT {

// What becomes of a tile's outputs before they are stored.
struct Plain {
  template <int ROWS, int COLUMNS>
  void finish(Vector (&)[ROWS * COLUMNS], int64_t, int64_t, int64_t, int64_t) {}
  Plain moved(int64_t) const { return {}; }
  void end() const {}
};

// Two sums by channel of what a task makes, in lanes until it is done.
class LaneSums {
 public:
  LaneSums(int64_t first_channel, int64_t last_channel) : first_(first_channel), last_(last_channel) {
    static thread_local Scratch scratch;
    lanes_ = scratch.of((last_ - first_) * 2 * LANES);
    for (int64_t i = 0; i < (last_ - first_) * 2; i++) store(lanes_ + i * LANES, zeros());
  }

  void add(int64_t channel, Vector first, Vector second) {
    float* own = lanes_ + (channel - first_) * 2 * LANES;
    store(own, load(own) + first);
    store(own + LANES, load(own + LANES) + second);
  }

  // Into `sums`, (channels, 2).
  void write(double* sums) const {
    for (int64_t channel = first_; channel < last_; channel++)
      for (int i = 0; i < 2; i++) sums[2 * channel + i] = sum(load(lanes_ + ((channel - first_) * 2 + i) * LANES));
  }

 private:
  int64_t first_, last_;
  float* lanes_;
};

struct Summed {
  double* sums;  // (channels, 2) of this part
  LaneSums lanes;

  template <int ROWS, int COLUMNS>
  inline __attribute__((always_inline)) void finish(Vector (&outputs)[ROWS * COLUMNS], int64_t, int64_t, int64_t,
                                                    int64_t channel) {
    Vector total = zeros(), squares = zeros();
    for (int i = 0; i < ROWS * COLUMNS; i++) {
      total += outputs[i];
      squares += outputs[i] * outputs[i];
    }
    lanes.add(channel, total, squares);
  }

  void end() const { lanes.write(sums); }
};

struct Masked {
  Mask mask;
  double* sums;
  LaneSums lanes;

  template <int ROWS, int COLUMNS>
  inline __attribute__((always_inline)) void finish(Vector (&outputs)[ROWS * COLUMNS], int64_t block, int64_t row,
                                                    int64_t column, int64_t channel) {
    const Pixels& input = mask.input;
    const Stored* from = at(input, block, row, column) + channel * input.channel;
    const float scale = mask.scale[channel], shift = mask.shift[channel], mean = mask.mean[channel];
    Vector total = zeros(), products = zeros();
    for (int r = 0; r < ROWS; r++)
      for (int c = 0; c < COLUMNS; c++) {
        const Vector x = load(from + r * input.row + c * input.pixel);
        Vector& output = outputs[r * COLUMNS + c];
        output = scale * x + shift > zeros() ? output : zeros();
        total += output;
        products += output * (x - mean);
      }
    lanes.add(channel, total, products);
  }

  // The same for outputs so many floats further.
  Masked moved(int64_t shift) const {
    Masked there = *this;
    there.mask.input.data = static_cast<Stored*>(mask.input.data) + shift;
    return there;
  }

  void end() const { lanes.write(sums); }
};

}  // namespace SPARSECORE_VARIANT
