// Panels: as many vectors of a batch as registers hold the sums of.
#pragma once

#include <utility>

#include "linear/linear.hpp"
#include "runtime/scratch.hpp"
#include "simd/vector.hpp"

namespace SPARSECORE_VARIANT {

using sparsecore::LinearGradientsParams;
using sparsecore::LinearParams;
using sparsecore::parallel_for;
using sparsecore::TiledRows;

// The most vectors of a panel, and whether there are registers for the inputs of both gradients at a time.
#if defined(__AVX512F__) || defined(__ARM_NEON)
constexpr int MOST_VECTORS = 8;  // 32 registers
constexpr bool GRADIENTS_TOGETHER = true;
#else
constexpr int MOST_VECTORS = 13;  // 16 registers
constexpr bool GRADIENTS_TOGETHER = false;
#endif

// The work is cut into about so many tasks.
constexpr int64_t TASKS = 16;

// The tasks of so many rows.
inline int64_t task_count(int64_t rows) {
  constexpr int64_t FEWEST_ROWS = 8;
  const int64_t most = (rows + FEWEST_ROWS - 1) / FEWEST_ROWS;
  return most < TASKS ? most : TASKS;
}

// The vectors [first, last) of a batch.
struct Panel {
  int64_t first, last;

  int count() const { return static_cast<int>(last - first); }
};

inline int64_t panel_count(int64_t vectors) { return (vectors + MOST_VECTORS - 1) / MOST_VECTORS; }

// The panel of this number; all have about as many vectors.
inline Panel panel_of(int64_t vectors, int64_t number) {
  const int64_t panels = panel_count(vectors);
  return {vectors * number / panels, vectors * (number + 1) / panels};
}

template <class Function, int... COUNTS>
void with_count_of(const Panel& panel, Function function, std::integer_sequence<int, COUNTS...>) {
  (void)((panel.count() == COUNTS + 1 && (function(std::integral_constant<int, COUNTS + 1>{}), true)) || ...);
}

// Calls function(constant) with the number of the panel's vectors as a constant.
template <class Function>
void with_count_of(const Panel& panel, Function function) {
  with_count_of(panel, function, std::make_integer_sequence<int, MOST_VECTORS>{});
}

// The vectors of a panel of each feature. The features are `stride` floats apart.
template <class Float>
struct Features {
  Float* data;
  int64_t stride;

  Float* at(int64_t feature) const { return data + feature * stride; }
  Features from(int64_t feature) const { return {at(feature), stride}; }
  explicit operator bool() const { return data; }
};

using ReadFeatures = Features<const float>;
using WrittenFeatures = Features<float>;

// A panel of a batch; null where there is no batch.
template <class Float>
Features<Float> features_of(Float* batch, int64_t vectors, const Panel& panel) {
  return {batch ? batch + panel.first * LANES : nullptr, vectors * LANES};
}

template <int VECTORS>
void copy_features(const ReadFeatures& from, const WrittenFeatures& to, int64_t count) {
  for (int64_t feature = 0; feature < count; feature++)
    for (int v = 0; v < VECTORS; v++) store(to.at(feature) + v * LANES, load(from.at(feature) + v * LANES));
}

// Features one behind another in scratch memory. Where a batch has several panels, its features lie so far apart that
// they would share few of a cache's sets.
template <int VECTORS>
WrittenFeatures packed_features(Scratch& scratch, int64_t count) {
  return {scratch.request(count * VECTORS * LANES), VECTORS * LANES};
}

template <int VECTORS>
ReadFeatures packed_copy(Scratch& scratch, const ReadFeatures& from, int64_t count, int threads = 1) {
  constexpr int64_t CHUNK = 64;
  const WrittenFeatures copy = packed_features<VECTORS>(scratch, count);
  parallel_for((count + CHUNK - 1) / CHUNK, threads, [&](int64_t chunk) {
    const int64_t first = chunk * CHUNK, left = count - first;
    copy_features<VECTORS>(from.from(first), copy.from(first), left < CHUNK ? left : CHUNK);
  });
  return {copy.data, copy.stride};
}

// The scratch memory of a thread for packed features: those that all tasks read, and those of one task.
struct PanelScratch {
  Scratch shared, read, written;
};

inline PanelScratch& panel_scratch() {
  static thread_local PanelScratch scratch;
  return scratch;
}

// Features that all tasks on a panel read, packed where the batch has several panels.
template <int VECTORS>
ReadFeatures shared_features(const float* batch, int64_t vectors, const Panel& panel, int64_t count, int threads) {
  const ReadFeatures features = features_of(batch, vectors, panel);
  return panel.count() == vectors ? features : packed_copy<VECTORS>(panel_scratch().shared, features, count, threads);
}

// Rows whose weights and sums fit into a cache of so many bytes.
inline int64_t rows_that_fit(const TiledRows& weights, int64_t cache_bytes, int64_t bytes_per_weight,
                             int64_t bytes_per_row) {
  constexpr int64_t FEWEST = 16;
  const int64_t rows = cache_bytes / (bytes_per_row + weights.count() / weights.rows * bytes_per_weight);
  return rows < FEWEST ? FEWEST : rows;
}

// Requests the numbers of a row's weights in a tile some rows before they are needed. They lie in pieces throughout the
// list, so that the processor does not request them by itself.
class RunPrefetcher {
 public:
  explicit RunPrefetcher(const TiledRows& weights)
      : length_(weights.count() / (weights.tiles() * weights.rows)), last_(weights.rows - 1) {}

  // The row whose numbers are requested while this one is worked on.
  int64_t row_ahead(int64_t row) const { return row + ROWS < last_ ? row + ROWS : last_; }

  template <bool WRITE = false, class Number>
  inline __attribute__((always_inline)) void request(Number* first) const {
    constexpr int64_t LINE = 64 / sizeof(Number), MOST = 8;
    const int64_t lines = length_ / LINE + 2;
    for (int64_t line = 0; line < (lines < MOST ? lines : MOST); line++)
      __builtin_prefetch(first + line * LINE, WRITE ? 1 : 0);
  }

 private:
  static constexpr int64_t ROWS = 4;
  int64_t length_, last_;  // the mean length of a run, and the last row
};

}  // namespace SPARSECORE_VARIANT
