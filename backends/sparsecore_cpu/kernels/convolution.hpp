// Convolution by a list of the weights that exist: each is one multiply-add of a vector for each output pixel.
#pragma once

#include "prepared.hpp"

namespace SPARSECORE_VARIANT {

// What becomes of a tile's outputs before they are stored.
struct Plain {
  template <int ROWS, int COLUMNS>
  void finish(Vector (&)[ROWS * COLUMNS], int64_t, int64_t, int64_t, int64_t) {}
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
    const Pixels input = at(mask.input, block, row, column);
    const float* from = input.data + channel * input.channel;
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

  void end() const { lanes.write(sums); }
};

template <class Finish>
struct Convolution {
  Pixels x, out;
  const float* add;  // at the place of out.data
  List list;
  int64_t block, channels, first_channel, last_channel;
  Finish finish;

  template <int ROWS, int COLUMNS>
  void tile(int64_t row, int64_t column) {
    const float* from = at(x, block, row, column).data;
    const int64_t place = block * out.block + row * out.row + column * out.pixel;
    for (int64_t input = 0; input < list.input_blocks; input++) {
      const int32_t* groups = list.pointers + input * channels;
      const bool last = input + 1 == list.input_blocks;
      for (int64_t channel = first_channel; channel < last_channel; channel++) {
        Vector outputs[ROWS * COLUMNS];
        const int64_t there = place + channel * out.channel;
        if (const float* start = input ? out.data : add)
          read<ROWS, COLUMNS>(start + there, outputs);
        else
          for (auto& output : outputs) output = zeros();
        accumulate<ROWS, COLUMNS>(from, groups[channel], groups[channel + 1], outputs);
        if (last) finish.template finish<ROWS, COLUMNS>(outputs, block, row, column, channel);
        write<ROWS, COLUMNS>(out.data + there, outputs);
      }
    }
  }

 private:
  template <int ROWS, int COLUMNS>
  inline __attribute__((always_inline)) void accumulate(const float* from, int32_t first, int32_t last,
                                                        Vector (&outputs)[ROWS * COLUMNS]) {
    for (int32_t k = first; k < last; k++) {
      const float* place = from + list.offsets[k];
      const float weight = list.values[k];
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 16
        for (int c = 0; c < COLUMNS; c++) outputs[r * COLUMNS + c] += weight * load(place + r * x.row + c * x.pixel);
    }
  }

  template <int ROWS, int COLUMNS>
  inline __attribute__((always_inline)) void read(const float* from, Vector (&outputs)[ROWS * COLUMNS]) {
    for (int r = 0; r < ROWS; r++)
      for (int c = 0; c < COLUMNS; c++) outputs[r * COLUMNS + c] = load(from + r * out.row + c * out.pixel);
  }

  template <int ROWS, int COLUMNS>
  inline __attribute__((always_inline)) void write(float* to, const Vector (&outputs)[ROWS * COLUMNS]) {
    for (int r = 0; r < ROWS; r++)
      for (int c = 0; c < COLUMNS; c++) store(to + r * out.row + c * out.pixel, outputs[r * COLUMNS + c]);
  }
};

// `finish_of(part)` makes what finishes the tiles of one part.
template <class FinishOf>
void convolve_by_parts(const Input& x, Pixels out, const float* add, List list, Extent extent, int threads,
                       FinishOf finish_of) {
  const int64_t cuts = channel_parts(extent);
  in_parallel(parts(extent) * cuts, threads, [&](int64_t task) {
    const Part part = part_of(extent, task / cuts);
    const int64_t cut = task % cuts;
    const int64_t first = extent.channels * cut / cuts, last = extent.channels * (cut + 1) / cuts;
    static thread_local Scratch scratch;
    const Pixels read = prepared(x, extent, part, scratch);
    auto finish = finish_of(task / cuts, first, last);
    cover(part.first_row, part.last_row, extent.width,
          Convolution<decltype(finish)>{read, out, add, list, part.block, extent.channels, first, last, finish});
    finish.end();
  });
}

inline void convolve(const Input& x, Pixels out, const float* add, List list, Extent extent, double* sums,
                     int threads) {
  if (!sums) return convolve_by_parts(x, out, add, list, extent, threads, [](int64_t, int64_t, int64_t) { return Plain{}; });
  convolve_by_parts(x, out, add, list, extent, threads, [&](int64_t part, int64_t first, int64_t last) {
    return Summed{sums + part * extent.channels * 2, LaneSums(first, last)};
  });
}

inline void convolve_masked(const Input& x, Pixels out, const float* add, List list, Extent extent, Mask mask,
                            double* sums, int threads) {
  convolve_by_parts(x, out, add, list, extent, threads, [&](int64_t part, int64_t first, int64_t last) {
    return Masked{mask, sums + part * extent.channels * 2, LaneSums(first, last)};
  });
}

}  // namespace SPARSECORE_VARIANT
