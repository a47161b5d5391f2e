// Convolution by a list of the weights that exist: each is one multiply-add of a vector for each output pixel.
#pragma once

#include "finish.hpp"
#include "prepared.hpp"

namespace SPARSECORE_VARIANT {

// Tiles of CHANNELS output channels that read the same pixels: one, or a bundle.
template <int CHANNELS, class Spacing, class Finish>
struct Convolution {
  Floats x;
  Pixels out;
  const Stored* add;  // at the place of out.data
  List list;
  int64_t block, channels, first_channel, last_channel;  // the first one starts a bundle
  Finish& finish;
  Ahead& ahead;

  template <int ROWS, int COLUMNS>
  void tile(int64_t row, int64_t column) {
    const float* from = at(x, block, row, column);
    Stored* to = at(out, block, row, column);
    const Stored* start = add ? add + (to - static_cast<Stored*>(out.data)) : nullptr;
    const int64_t groups = (channels + CHANNELS - 1) / CHANNELS;
    Partial<ROWS * COLUMNS> partial(*this);
    for (int64_t input = 0; input < list.input_blocks; input++) {
      const int32_t* pointers = list.pointers + input * groups;
      const bool last_input = input + 1 == list.input_blocks;
      for (int64_t first = first_channel; first < last_channel; first += CHANNELS) {
        const int full = first + CHANNELS <= last_channel ? CHANNELS : static_cast<int>(last_channel - first);
        ahead.step();
        Vector outputs[CHANNELS][ROWS * COLUMNS];
        for (int channel = 0; channel < CHANNELS; channel++)
          if (channel < full && input)
            partial.template read<ROWS, COLUMNS>(to, first + channel, outputs[channel]);
          else if (channel < full && start)
            read<ROWS, COLUMNS>(start + (first + channel) * out.channel, outputs[channel]);
          else
            for (auto& output : outputs[channel]) output = zeros();
        const int32_t group = static_cast<int32_t>(first / CHANNELS);
        accumulate<ROWS, COLUMNS>(from, pointers[group], pointers[group + 1], outputs);
        for (int channel = 0; channel < full; channel++) {
          if (last_input) {
            finish.template finish<ROWS, COLUMNS>(outputs[channel], block, row, column, first + channel);
            write<ROWS, COLUMNS>(to + (first + channel) * out.channel, outputs[channel]);
          } else {
            partial.template write<ROWS, COLUMNS>(to, first + channel, outputs[channel]);
          }
        }
      }
    }
  }

 private:
  // Outputs to which weights of further input channels are still to be added: in floats, at their own place where that
  // has floats.
  template <int PIXELS>
  class Partial {
   public:
    explicit Partial(Convolution& all) : all_(all) {
      static thread_local Scratch scratch;
      if (!STORED_AS_COMPUTED && all.list.input_blocks > 1)
        floats_ = scratch.of((all.last_channel - all.first_channel) * PIXELS * LANES);
    }

    template <int ROWS, int COLUMNS>
    inline __attribute__((always_inline)) void read(const Stored* to, int64_t channel,
                                                    Vector (&outputs)[PIXELS]) const {
      if constexpr (STORED_AS_COMPUTED) return all_.read<ROWS, COLUMNS>(to + channel * all_.out.channel, outputs);
      for (int i = 0; i < PIXELS; i++) outputs[i] = load(of(channel) + i * LANES);
    }

    template <int ROWS, int COLUMNS>
    inline __attribute__((always_inline)) void write(Stored* to, int64_t channel,
                                                     const Vector (&outputs)[PIXELS]) const {
      if constexpr (STORED_AS_COMPUTED) return all_.write<ROWS, COLUMNS>(to + channel * all_.out.channel, outputs);
      for (int i = 0; i < PIXELS; i++) store(of(channel) + i * LANES, outputs[i]);
    }

   private:
    float* of(int64_t channel) const { return floats_ + (channel - all_.first_channel) * PIXELS * LANES; }

    Convolution& all_;
    float* floats_ = nullptr;
  };

  template <int ROWS, int COLUMNS>
  inline __attribute__((always_inline)) void accumulate(const float* from, int32_t first, int32_t last,
                                                        Vector (&outputs)[CHANNELS][ROWS * COLUMNS]) {
    const int64_t apart = Spacing::apart(x);
    for (int32_t k = first; k < last; k++) {
      const float* place = from + list.offsets[k];
      const float* weights = list.values + static_cast<int64_t>(k) * CHANNELS;
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; r++) {
        const float* line = settled(place + r * x.row);
#pragma GCC unroll 16
        for (int c = 0; c < COLUMNS; c++) {
          const Vector pixel = load(line + c * apart);
#pragma GCC unroll 4
          for (int channel = 0; channel < CHANNELS; channel++)
            outputs[channel][r * COLUMNS + c] += weights[channel] * pixel;
        }
      }
    }
  }

  template <int ROWS, int COLUMNS>
  inline __attribute__((always_inline)) void read(const Stored* from, Vector (&outputs)[ROWS * COLUMNS]) {
    for (int r = 0; r < ROWS; r++)
      for (int c = 0; c < COLUMNS; c++) outputs[r * COLUMNS + c] = load(from + r * out.row + c * out.pixel);
  }

  template <int ROWS, int COLUMNS>
  inline __attribute__((always_inline)) void write(Stored* to, const Vector (&outputs)[ROWS * COLUMNS]) {
    for (int r = 0; r < ROWS; r++)
      for (int c = 0; c < COLUMNS; c++) store(to + r * out.row + c * out.pixel, outputs[r * COLUMNS + c]);
  }
};

// What a convolution writes, beside what it starts from.
struct Written {
  Pixels out;
  const void* add;  // at the place of out.data

  void soon(const Part& band, Ahead& ahead) const {
    ahead.rows(out, band.block, band.first_row, band.last_row);
    Pixels start = out;
    start.data = const_cast<void*>(add);
    if (add) ahead.rows(start, band.block, band.first_row, band.last_row);
  }

  Written moved(int64_t shift) const {
    Written there = *this;
    there.out.data = static_cast<Stored*>(out.data) + shift;
    if (add) there.add = static_cast<const Stored*>(add) + shift;
    return there;
  }
};

// How often a convolution over a band looks ahead.
inline int64_t looks(const List& list, const Extent& extent, const Part& band, int64_t channels) {
  if (!list.bundled) return looks_of_tiles(list, extent, band, channels);
  const int64_t bundles = (channels + BUNDLE - 1) / BUNDLE;
  return bundles * list.input_blocks * strips(extent.width, TILE / BUNDLE) * (band.last_row - band.first_row);
}

// The channels [first, last) of one band.
template <class Finish>
void convolve_band(const Floats& read, const Written& to, List list, const Extent& extent, const Part& band,
                   int64_t first, int64_t last, Finish& finish, Ahead& ahead) {
  const Stored* add = static_cast<const Stored*>(to.add);
  with_spacing(read, [&](auto spacing) {
    const auto cover_with = [&](auto channels) {
      using Tiles = Convolution<decltype(channels)::value, decltype(spacing), Finish>;
      cover<TILE / decltype(channels)::value>(
          band.first_row, band.last_row, extent.width,
          Tiles{read, to.out, add, list, band.block, extent.channels, first, last, finish, ahead});
    };
    list.bundled ? cover_with(std::integral_constant<int, BUNDLE>{}) : cover_with(std::integral_constant<int, 1>{});
  });
}

// `finish_of(part)` makes what finishes the tiles of one part.
template <class FinishOf>
void convolve_by_parts(const Input& x, Pixels out, const void* add, List list, Extent extent, int threads,
                       FinishOf finish_of) {
  const int64_t cuts = channel_parts(extent);
  in_parallel(parts(extent) * cuts, threads, [&](int64_t task) {
    const Part part = part_of(extent, task / cuts);
    const int64_t cut = task % cuts;
    const int64_t first = channel_cut(extent, cut, cuts), last = channel_cut(extent, cut + 1, cuts);
    static thread_local Scratch scratch;
    Prepared read(x, extent, part, scratch);
    const Written to{out, add};
    auto finish = finish_of(task / cuts, first, last);
    Bands(extent, task / cuts, band_rows(extent.width), threads).each([&](const Part& band, const Part& next) {
      const Floats& given = read.above(band.last_row);
      Ahead ahead;
      read.soon(next, ahead), to.soon(next, ahead);
      ahead.over(looks(list, extent, band, last - first));
      convolve_band(given, to, list, extent, band, first, last, finish, ahead);
    });
    finish.end();
  });
}

inline void convolve(const Input& x, Pixels out, const void* add, List list, Extent extent, double* sums,
                     int threads) {
  const auto plain = [](int64_t, int64_t, int64_t) { return Plain{}; };
  if (!sums) return convolve_by_parts(x, out, add, list, extent, threads, plain);
  convolve_by_parts(x, out, add, list, extent, threads, [&](int64_t part, int64_t first, int64_t last) {
    return Summed{sums + part * extent.channels * 2, LaneSums(first, last)};
  });
}

inline void convolve_masked(const Input& x, Pixels out, const void* add, List list, Extent extent, Mask mask,
                            double* sums, int threads) {
  convolve_by_parts(x, out, add, list, extent, threads, [&](int64_t part, int64_t first, int64_t last) {
    return Masked{mask, sums + part * extent.channels * 2, LaneSums(first, last)};
  });
}

}  // namespace SPARSECORE_VARIANT
