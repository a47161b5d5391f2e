// Memory is fetched for the rows to come while those at hand are computed.
#pragma once

#include "tiles.hpp"

namespace SPARSECORE_VARIANT {

// Lines that will be read or written soon, to be asked for a few at a time.
class Ahead {
 public:
  // Rows [first, last) of a block.
  void rows(const Pixels& pixels, int64_t block, int64_t first, int64_t last) {
    if (last <= first || count_ == MOST) return;
    const Stored* start = at(pixels, block, first, 0);
    runs_[count_++] = {reinterpret_cast<const char*>(start),
                       reinterpret_cast<const char*>(start + (last - first) * pixels.row)};
    lines_ += (runs_[count_ - 1].end - runs_[count_ - 1].next) / LINE;
  }

  // How often `step` will be called.
  void over(int64_t steps) { share_ = steps > 0 ? (lines_ + steps - 1) / steps : 0; }

  inline __attribute__((always_inline)) void step() {
    for (int64_t i = 0; i < share_ && run_ < count_; i++) {
      Run& run = runs_[run_];
      __builtin_prefetch(run.next, 0, 2);
      run.next += LINE;
      if (run.next >= run.end) run_++;
    }
  }

 private:
  struct Run {
    const char *next, *end;
  };
  static constexpr int MOST = 8;
  static constexpr int64_t LINE = 64;
  Run runs_[MOST];
  int count_ = 0, run_ = 0;
  int64_t lines_ = 0, share_ = 0;
};

// How often tiles that go through a list weight by weight look ahead.
inline int64_t looks_of_tiles(const List& list, const Extent& extent, const Part& band, int64_t channels) {
  const int64_t height = band_rows(extent.width), rows = band.last_row - band.first_row;
  return channels * list.input_blocks * strips(extent.width, WIDEST) * ((rows + height - 1) / height);
}

}  // namespace SPARSECORE_VARIANT
