// Convolutions whose weights read nothing but the output's own pixel, as those of 1x1 pixel: products of a matrix with
// the channels of each pixel. They are computed for a few pixels at a time, so that many channels of these stay in the
// cache next to the core.
#pragma once

#include "conv/epilogues.hpp"
#include "conv/input.hpp"
#include "conv/output.hpp"

namespace SPARSECORE_VARIANT {

using sparsecore::ConvolutionParams;

// The pixels of a tile. They are fewer than in other convolutions, whose weights read pixels again that others have
// read.
constexpr int OWN_PIXEL_TILE = 8;

// The pixels of a tile channel by channel, as floats; those of a row lie behind one another.
struct TileChannels {
  const float* data;
  int64_t row_stride, channel_stride;

  const float* at(int64_t channel) const { return data + channel * channel_stride; }
};

// A tile of `ROWS` rows and `COLUMNS` columns.
struct Tile {
  int64_t block, row, column;
  int rows, columns;

  // The tile to the right or, at the end of a row of so many pixels, the first one below.
  Tile next(int64_t width) const {
    return column + columns < width ? Tile{block, row, column + columns, rows, columns}
                                    : Tile{block, row + rows, 0, rows, columns};
  }
};

// Requests pixels of a tile channel by channel while another tile is computed.
class TilePrefetcher {
 public:
  // Adds so many channels of an activation.
  void add(const ActivationView& view, const Tile& tile, int64_t channels) {
    const auto bytes = [](int64_t values) { return values * static_cast<int64_t>(sizeof(Stored)); };
    const Stored* first = at(view, tile.block, tile.row, tile.column);
    pixels_[count_++] = {reinterpret_cast<const char*>(first),
                         bytes(view.channel_stride),
                         bytes(view.row_stride),
                         bytes(view.pixel_stride),
                         channels,
                         0};
    rows_ = tile.rows, columns_ = tile.columns;
  }

  // Distributes the channels evenly over so many calls of `step`.
  void distribute(int64_t steps) { steps_ = steps; }

  inline __attribute__((always_inline)) void step() {
    for (int i = 0; i < count_; i++) {
      Pixels& pixels = pixels_[i];
      for (pixels.due += pixels.channels; pixels.due >= steps_;
           pixels.due -= steps_, pixels.next += pixels.channel_bytes)
        for (int row = 0; row < rows_; row++)
          for (int column = 0; column < columns_; column++)
            __builtin_prefetch(pixels.next + row * pixels.row_bytes + column * pixels.column_bytes, 0, 2);
    }
  }

 private:
  struct Pixels {
    const char* next;
    int64_t channel_bytes, row_bytes, column_bytes, channels;
    int64_t due;  // channels times `steps_` that are to be requested
  };
  static constexpr int MOST = 4;  // an input and a gradient, each perhaps computed from two activations
  Pixels pixels_[MOST];
  int count_ = 0, rows_ = 0, columns_ = 0;
  int64_t steps_ = 1;
};

// The input of a convolution in one block of images, tile by tile.
class TileInput {
 public:
  // A pixel is read `uses` times.
  TileInput(const ConvolutionInput& input, const Extent& extent, int64_t block, int64_t uses)
      : input_(input),
        pixels_(strided(input.pixels, input)),
        other_(strided(input.other, input)),
        block_(block),
        lanes_(lanes_in_use(extent, block, 0)),
        is_in_place_(STORED_AS_FLOAT && !input.scale && pixels_.pixel_stride == LANES && uses < WORTH_A_COPY) {}

  // How many floats `read` needs for a tile.
  int64_t scratch_size() const { return input_.channels * OWN_PIXEL_TILE * LANES; }

  // Returns the pixels that the outputs of a tile read; they are computed into `scratch`, or lie in the input's own
  // memory.
  template <int ROWS, int COLUMNS>
  __attribute__((noinline)) TileChannels read(int64_t row, int64_t column, float* scratch) const {
    const Stored* from = at(pixels_, block_, row, column);
    const int64_t stride = pixels_.channel_stride;
    if (is_in_place_) return {reinterpret_cast<const float*>(from), pixels_.row_stride, stride};
    if (!input_.scale) {
      compute<ROWS, COLUMNS>(scratch, [=](int64_t channel) {
        const Stored* own = from + channel * stride;
        return [=](int64_t offset) { return load(own + offset); };
      });
    } else if (!input_.other.data) {
      compute<ROWS, COLUMNS>(scratch, [=](int64_t channel) {
        const Stored* own = from + channel * stride;
        const float scale = input_.scale[channel], shift = input_.shift[channel];
        return [=](int64_t offset) { return rectified(scale * load(own + offset) + shift); };
      });
    } else {
      const Stored* other = at(other_, block_, row, column);
      compute<ROWS, COLUMNS>(scratch, [=](int64_t channel) {
        const Stored *own = from + channel * stride, *own_other = other + channel * stride;
        const float scale = input_.scale[channel], shift = input_.shift[channel];
        const float other_scale = input_.other_scale[channel];
        return [=](int64_t offset) {
          return scale * load(own + offset) + (other_scale * load(own_other + offset) + shift);
        };
      });
    }
    return {scratch, COLUMNS * LANES, ROWS * COLUMNS * LANES};
  }

  // Adds what `read` reads for a tile.
  void prefetch(const Tile& tile, TilePrefetcher& prefetcher) const {
    prefetcher.add(pixels_, tile, input_.channels);
    if (other_.data) prefetcher.add(other_, tile, input_.channels);
  }

 private:
  // Pixels that are read so often are copied behind one another first: channels that lie a large power of two apart
  // share few of a cache's sets.
  static constexpr int64_t WORTH_A_COPY = 8;

  static ActivationView strided(ActivationView view, const ConvolutionInput& input) {
    view.row_stride *= input.row_step, view.pixel_stride *= input.column_step;
    return view;
  }

  // function_of(channel)(offset) is the pixel so far behind the first one of the tile.
  template <int ROWS, int COLUMNS, class FunctionOf>
  void compute(float* to, FunctionOf function_of) const {
    for (int64_t channel = 0; channel < input_.channels; channel++) {
      const auto function = function_of(channel);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 8
        for (int c = 0; c < COLUMNS; c++, to += LANES) {
          const Vector pixel = function(r * pixels_.row_stride + c * pixels_.pixel_stride);
          store(to, lanes_ == LANES ? pixel : first_lanes(pixel, lanes_));
        }
    }
  }

  ConvolutionInput input_;
  ActivationView pixels_, other_;
  int64_t block_;
  int lanes_;
  bool is_in_place_;
};

// The outputs of some channels, tile by tile. `weights` name the channels that they read, or there are none.
template <class Epilogue>
class OwnPixelOutputs {
 public:
  // `channels` is the number of all channels, of which the range [first, last) is computed.
  OwnPixelOutputs(const ConvolutionOutput& output, const WeightList& weights, int64_t channels, int64_t first,
                  int64_t last, Epilogue& epilogue)
      : output_(output), weights_(weights), channels_(channels), first_(first), last_(last), epilogue_(epilogue) {}

  // How many prefetch steps a tile makes.
  int64_t prefetch_steps() const { return weights_.input_blocks * (last_ - first_); }

  // Computes a tile; `next` is the one that is probably computed afterwards.
  template <int ROWS, int COLUMNS>
  __attribute__((noinline)) void compute(const TileChannels& x, const Tile& tile, const Tile& next,
                                         TilePrefetcher& prefetcher) {
    constexpr int SIZE = ROWS * COLUMNS;
    const ActivationView& out = output_.out;
    const int64_t stride = out.channel_stride;
    Stored* to = at(out, tile.block, tile.row, tile.column);
    const Stored* start =
        output_.add ? static_cast<const Stored*>(output_.add) + (to - static_cast<Stored*>(out.data)) : nullptr;
    const Stored* next_to = at(out, next.block, next.row, next.column);
    static thread_local Scratch scratch;  // for sums over the blocks of input channels
    float* const partial = weights_.input_blocks > 1 ? scratch.request((last_ - first_) * SIZE * LANES) : nullptr;
    for (int64_t input = 0; input < weights_.input_blocks; input++) {
      const int32_t* pointers = weights_.pointers + input * channels_;
      const bool is_last = input + 1 == weights_.input_blocks;
      for (int64_t channel = first_; channel < last_; channel++) {
        prefetcher.step();
        float* kept = partial + (channel - first_) * SIZE * LANES;
        Vector outputs[SIZE];
        if (input)
          for (int i = 0; i < SIZE; i++) outputs[i] = load(kept + i * LANES);
        else if (start)
          load_tile<ROWS, COLUMNS>(out, start + channel * stride, outputs);
        else
          for (auto& output : outputs) output = zeros();
        if (!input) prefetch<ROWS, COLUMNS>(out, next_to + channel * stride);
        accumulate<ROWS, COLUMNS>(x, pointers[channel], pointers[channel + 1], outputs);
        if (is_last) {
          epilogue_.template apply<ROWS, COLUMNS>(outputs, tile.block, tile.row, tile.column, channel);
          store_tile<ROWS, COLUMNS>(out, to + channel * stride, outputs);
        } else {
          for (int i = 0; i < SIZE; i++) store(kept + i * LANES, outputs[i]);
        }
      }
    }
  }

 private:
  template <int ROWS, int COLUMNS>
  inline __attribute__((always_inline)) static void prefetch(const ActivationView& out, const Stored* to) {
    for (int r = 0; r < ROWS; r++)
      for (int c = 0; c < COLUMNS; c++) __builtin_prefetch(to + r * out.row_stride + c * out.pixel_stride, 1, 2);
  }

  // The inner loop: adds weight * pixel for the weights [first, last) to the outputs, which stay in registers.
  template <int ROWS, int COLUMNS>
  inline __attribute__((always_inline)) void accumulate(const TileChannels& x, int32_t first, int32_t last,
                                                        Vector (&outputs)[ROWS * COLUMNS]) const {
    for (int32_t k = first; k < last; k++) {
      const float value = weights_.values[k];
      const float* pixels = x.at(weights_.channels[k]);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; r++) {
        const float* line = pin_register(pixels + r * x.row_stride);
#pragma GCC unroll 8
        for (int c = 0; c < COLUMNS; c++) outputs[r * COLUMNS + c] += value * load(line + c * LANES);
      }
    }
  }

  ConvolutionOutput output_;
  WeightList weights_;
  int64_t channels_, first_, last_;
  Epilogue& epilogue_;
};

// Calls visitor.tile<ROWS, COLUMNS>(row, column) for tiles that cover the rows of a part, row by row.
template <class Visitor>
void for_each_own_pixel_tile(const RowRange& part, int64_t width, Visitor visitor) {
  const int64_t columns = width / strip_count(width, OWN_PIXEL_TILE);
  const int64_t rows = tile_rows(static_cast<int>(columns), OWN_PIXEL_TILE);
  for (int64_t row = part.first_row; row < part.last_row; row += rows)
    for_each_tile<OWN_PIXEL_TILE>(row, row + rows < part.last_row ? row + rows : part.last_row, width, visitor);
}

// How often each input is read.
inline int64_t uses_of_inputs(const WeightList& weights, int64_t inputs, int64_t outputs) {
  return weights.pointers[weights.input_blocks * outputs] / inputs;
}

// Visits the tiles of one task of a convolution.
template <class Epilogue>
struct OwnPixelTiles {
  const TileInput& input;
  float* scratch;
  OwnPixelOutputs<Epilogue>& outputs;
  int64_t block, width;

  template <int ROWS, int COLUMNS>
  void tile(int64_t row, int64_t column) {
    const Tile tile{block, row, column, ROWS, COLUMNS}, next = tile.next(width);
    TilePrefetcher prefetcher;
    input.prefetch(next, prefetcher), prefetcher.distribute(outputs.prefetch_steps());
    const TileChannels x = input.read<ROWS, COLUMNS>(row, column, scratch);
    outputs.template compute<ROWS, COLUMNS>(x, tile, next, prefetcher);
  }
};

// `make_epilogue(part, first channel, last channel)` makes the epilogue of the tiles of one task.
template <class MakeEpilogue>
void convolve_own_pixels(const ConvolutionParams& params, MakeEpilogue make_epilogue) {
  const Extent& extent = params.extent;
  const int64_t ranges = channel_range_count(extent, params.threads);
  const int64_t uses = uses_of_inputs(params.weights, params.x.channels, extent.channels);
  parallel_for(part_count(extent) * ranges, params.threads, [&](int64_t task) {
    const RowRange part = rows_of_part(extent, task / ranges);
    const int64_t range = task % ranges;
    const int64_t first = first_channel_of(extent, range, ranges), last = first_channel_of(extent, range + 1, ranges);
    static thread_local Scratch scratch;
    const TileInput input(params.x, extent, part.block, uses);
    auto epilogue = make_epilogue(task / ranges, first, last);
    using Epilogue = decltype(epilogue);
    OwnPixelOutputs<Epilogue> outputs({params.out, params.add}, params.weights, extent.channels, first, last, epilogue);
    for_each_own_pixel_tile(
        part, extent.width,
        OwnPixelTiles<Epilogue>{input, scratch.request(input.scratch_size()), outputs, part.block, extent.width});
    epilogue.write_sums();
  });
}

}  // namespace SPARSECORE_VARIANT
