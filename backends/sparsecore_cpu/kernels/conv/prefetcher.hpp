// Prefetches the memory of the rows to come while the present ones are computed.
#pragma once

#include "simd/tiles.hpp"

namespace SPARSECORE_VARIANT {

// Collects ranges of memory that will be read or written soon, and requests their cache lines a few at a time.
class Prefetcher {
 public:
  // Adds the rows of an activation.
  void add(const ActivationView& view, const RowRange& rows) {
    if (rows.last_row <= rows.first_row || count_ == MOST_RANGES) return;
    const Stored* start = at(view, rows.block, rows.first_row, 0);
    ranges_[count_++] = {reinterpret_cast<const char*>(start),
                         reinterpret_cast<const char*>(start + (rows.last_row - rows.first_row) * view.row_stride)};
    lines_ += (ranges_[count_ - 1].end - ranges_[count_ - 1].next) / LINE;
  }

  // Distributes the cache lines evenly over so many calls of `step`.
  void distribute(int64_t steps) { lines_per_step_ = steps > 0 ? (lines_ + steps - 1) / steps : 0; }

  inline __attribute__((always_inline)) void step() {
    for (int64_t i = 0; i < lines_per_step_ && current_ < count_; i++) {
      MemoryRange& range = ranges_[current_];
      __builtin_prefetch(range.next, 0, 2);
      range.next += LINE;
      if (range.next >= range.end) current_++;
    }
  }

 private:
  struct MemoryRange {
    const char *next, *end;
  };
  static constexpr int MOST_RANGES = 8;
  static constexpr int64_t LINE = 64;
  MemoryRange ranges_[MOST_RANGES];
  int count_ = 0, current_ = 0;
  int64_t lines_ = 0, lines_per_step_ = 0;
};

// How many steps tiles make that apply a list weight by weight: one for each group of weights.
inline int64_t prefetch_steps_of_tiles(const WeightList& weights, const Extent& extent, const RowRange& band,
                                       int64_t channels) {
  const int64_t height = band_rows(extent.width), rows = band.last_row - band.first_row;
  return channels * weights.input_blocks * strip_count(extent.width, WIDEST_TILE) * ((rows + height - 1) / height);
}

}  // namespace SPARSECORE_VARIANT
