// Epilogues of a convolution: what is done with a tile of outputs before it is stored.
#pragma once

#include "runtime/scratch.hpp"
#include "simd/tiles.hpp"

namespace SPARSECORE_VARIANT {

// Each epilogue has
// - apply<ROWS, COLUMNS>(outputs, block, row, column, channel), which may change the outputs of a tile;
// - shifted(offset), the same for outputs `offset` values further on;
// - write_sums(), called when all tiles of a task are done.
struct NoEpilogue {
  template <int ROWS, int COLUMNS>
  void apply(Vector (&)[ROWS * COLUMNS], int64_t, int64_t, int64_t, int64_t) {}
  NoEpilogue shifted(int64_t) const { return {}; }
  void write_sums() const {}
};

// Two sums for each channel of a task, lane by lane until the task is done.
class LaneSums {
 public:
  LaneSums(int64_t first_channel, int64_t last_channel) : first_(first_channel), last_(last_channel) {
    static thread_local Scratch scratch;
    lanes_ = scratch.request((last_ - first_) * 2 * LANES);
    for (int64_t i = 0; i < (last_ - first_) * 2; i++) store(lanes_ + i * LANES, zeros());
  }

  void add(int64_t channel, Vector first, Vector second) {
    float* own = lanes_ + (channel - first_) * 2 * LANES;
    store(own, load(own) + first);
    store(own + LANES, load(own + LANES) + second);
  }

  // Writes the sums over the lanes into `sums`, (channels, 2).
  void write(double* sums) const {
    for (int64_t channel = first_; channel < last_; channel++)
      for (int i = 0; i < 2; i++) sums[2 * channel + i] = sum(load(lanes_ + ((channel - first_) * 2 + i) * LANES));
  }

 private:
  int64_t first_, last_;
  float* lanes_;
};

// Sums of the outputs and of their squares.
struct MomentsEpilogue {
  double* sums;  // (channels, 2) of this part
  LaneSums lanes;

  template <int ROWS, int COLUMNS>
  inline __attribute__((always_inline)) void apply(Vector (&outputs)[ROWS * COLUMNS], int64_t, int64_t, int64_t,
                                                   int64_t channel) {
    Vector total = zeros(), squares = zeros();
    for (int i = 0; i < ROWS * COLUMNS; i++) {
      total += outputs[i];
      squares += outputs[i] * outputs[i];
    }
    lanes.add(channel, total, squares);
  }

  void write_sums() const { lanes.write(sums); }
};

// Makes outputs zero where the mask is not positive; sums of the outputs and of output * (input - mean).
struct MaskEpilogue {
  ReluMask mask;
  double* sums;  // (channels, 2) of this part
  LaneSums lanes;

  template <int ROWS, int COLUMNS>
  inline __attribute__((always_inline)) void apply(Vector (&outputs)[ROWS * COLUMNS], int64_t block, int64_t row,
                                                   int64_t column, int64_t channel) {
    const ActivationView& input = mask.input;
    const Stored* from = at(input, block, row, column) + channel * input.channel_stride;
    const float scale = mask.scale[channel], shift = mask.shift[channel], mean = mask.mean[channel];
    Vector total = zeros(), products = zeros();
    for (int r = 0; r < ROWS; r++)
      for (int c = 0; c < COLUMNS; c++) {
        const Vector x = load(from + r * input.row_stride + c * input.pixel_stride);
        Vector& output = outputs[r * COLUMNS + c];
        output = scale * x + shift > zeros() ? output : zeros();
        total += output;
        products += output * (x - mean);
      }
    lanes.add(channel, total, products);
  }

  MaskEpilogue shifted(int64_t offset) const {
    MaskEpilogue epilogue = *this;
    epilogue.mask.input.data = static_cast<Stored*>(mask.input.data) + offset;
    return epilogue;
  }

  void write_sums() const { lanes.write(sums); }
};

}  // namespace SPARSECORE_VARIANT
