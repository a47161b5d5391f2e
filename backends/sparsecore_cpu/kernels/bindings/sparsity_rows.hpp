// The active weights of a matrix row by row, as the kernels of linear layers read them.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "bindings/arguments.hpp"
#include "linear/linear.hpp"
#include "runtime/thread_pool.hpp"

namespace sparsecore {

template <>
struct DtypeName<int64_t> {
  static constexpr const char* value = "int64";
};

template <class Position>
using Positions = Array<const Position, 1>;
using Starts = std::vector<uint32_t>;

constexpr int64_t MOST_WEIGHTS = std::numeric_limits<int32_t>::max() - 16;

// The active weights of a matrix row by row, and where those of each tile start for the tiles that were asked for.
class Rows {
 public:
  Rows(int64_t rows, int64_t column_count, int64_t count)
      : rows_(rows),
        column_count_(column_count),
        count_(count),
        columns_(new uint16_t[static_cast<size_t>(count)]),
        segments_(static_cast<size_t>((segment_count() + 1) * rows)) {}

  int64_t rows() const { return rows_; }
  int64_t column_count() const { return column_count_; }
  int64_t count() const { return count_; }
  uint16_t* columns() { return columns_.get(); }
  const uint16_t* columns() const { return columns_.get(); }

  // Where the weights of a row in a segment start. Those of the segment behind the last one start where they end.
  uint32_t& start(int64_t segment, int64_t row) { return segments_[static_cast<size_t>(segment * rows_ + row)]; }
  uint32_t start(int64_t segment, int64_t row) const { return segments_[static_cast<size_t>(segment * rows_ + row)]; }
  int64_t segment_count() const { return (column_count_ + SEGMENT - 1) / SEGMENT; }

  // Calls visit(row, column, weight) for each weight of the rows [first, last), row by row.
  template <class Visit>
  void for_each(int64_t first, int64_t last, Visit visit) const {
    for (int64_t row = first; row < last; row++)
      for (int64_t segment = 0; segment < segment_count(); segment++)
        for (uint32_t k = start(segment, row); k < start(segment + 1, row); k++)
          visit(row, segment * SEGMENT + columns_[k], k);
  }

  // The tiles of so many columns; valid as long as this object. So many threads find where they start.
  TiledRows tiled(int64_t tile, int threads) {
    if (tile == SEGMENT) return view(segments_, tile);
    auto found = tiled_.find(tile);
    if (found == tiled_.end()) found = tiled_.emplace(tile, starts_of(tile, threads)).first;
    return view(found->second, tile);
  }

  template <class Visit>
  void for_each_array(Visit visit) const {
    visit(columns_.get(), static_cast<size_t>(count_));
    visit(segments_.data(), segments_.size());
    for (const auto& [tile, starts] : tiled_) visit(starts.data(), starts.size());
  }

 private:
  TiledRows view(const Starts& starts, int64_t tile) {
    if (!is_paired_) is_paired_ = are_pairs();
    return {columns_.get(), starts.data(), rows_, column_count_, tile, *is_paired_};
  }

  // Whether all weights are pairs of neighbours, the first of which is in an even column.
  bool are_pairs() const {
    if (count_ % 2) return false;
    for (int64_t k = 0; k < count_; k += 2)
      if (columns_[k] % 2 || columns_[k + 1] != columns_[k] + 1) return false;
    return std::all_of(segments_.begin(), segments_.end(), [](uint32_t start) { return start % 2 == 0; });
  }

  Starts starts_of(int64_t tile, int threads) const {
    constexpr int64_t CHUNK = 64;
    const int64_t tiles = (column_count_ + tile - 1) / tile;
    Starts starts(static_cast<size_t>((tiles + 1) * rows_));
    parallel_for((rows_ + CHUNK - 1) / CHUNK, threads, [&](int64_t chunk) {
      for (int64_t row = chunk * CHUNK; row < std::min(rows_, (chunk + 1) * CHUNK); row++)
        write_starts(tile, tiles, row, starts.data() + row);
    });
    return starts;
  }

  // Each weight notes that those of the next tile start behind it, which does not wait for the weight before.
  void write_starts(int64_t tile, int64_t tiles, int64_t row, uint32_t* starts) const {
    const int64_t tiles_per_segment = SEGMENT / tile;
    const int shift = __builtin_ctzll(static_cast<uint64_t>(tile));
    uint32_t k = start(0, row);
    for (int64_t number = 0; number <= tiles; number++) starts[number * rows_] = k;
    for (int64_t segment = 0; segment < segment_count(); segment++) {
      uint32_t* const behind = starts + (segment * tiles_per_segment + 1) * rows_;
      for (const uint32_t end = start(segment + 1, row); k < end; k++) behind[(columns_[k] >> shift) * rows_] = k + 1;
    }
    for (int64_t number = 1; number <= tiles; number++)
      starts[number * rows_] = std::max(starts[number * rows_], starts[(number - 1) * rows_]);
  }

  int64_t rows_, column_count_, count_;
  std::unique_ptr<uint16_t[]> columns_;
  std::optional<bool> is_paired_;
  Starts segments_;  // those of tiles of SEGMENT columns
  std::map<int64_t, Starts> tiled_;
};

// The smallest table of starts has an entry for each row of each segment.
inline void require_tables_fit(int64_t rows, int64_t columns) {
  constexpr int64_t MOST_ENTRIES = 1 << 28, MOST = std::numeric_limits<int32_t>::max();
  require(rows <= MOST && columns <= MOST && rows * (columns / SEGMENT + 2) <= MOST_ENTRIES,
          "a matrix has more rows and columns than the kernels can index");
}

// Notes where the weights of each row start in each segment, as it moves along the rows from the place of one weight.
// What comes before the first weight is zero from the beginning.
class RowStarts {
 public:
  RowStarts(Rows& rows, int64_t position) : rows_(rows) { move_to(position); }

  // Where the present segment of the present row ends.
  int64_t end() const { return end_; }
  // The column of a position in the present segment.
  uint16_t column_of(int64_t position) const { return static_cast<uint16_t>(position - first_); }

  // The places behind the present one, up to that of this position, start with weight k.
  void reach(int64_t position, uint32_t k) {
    const int64_t row = row_, segment = segment_;
    move_to(position);
    note(row, segment, row_, segment_, k);
  }

  // All places behind the present one start where the weights end.
  void behind_last(uint32_t count) { note(row_, segment_, rows_.rows() - 1, rows_.segment_count(), count); }

 private:
  void move_to(int64_t position) {
    const int64_t columns = rows_.column_count();
    row_ = position / columns, segment_ = position % columns / SEGMENT;
    first_ = row_ * columns + segment_ * SEGMENT;
    end_ = std::min(first_ + SEGMENT, (row_ + 1) * columns);
  }

  void note(int64_t row, int64_t segment, int64_t last_row, int64_t last_segment, uint32_t k) {
    while (row < last_row || segment < last_segment) {
      if (segment < rows_.segment_count())
        segment++;
      else
        row++, segment = 0;
      rows_.start(segment, row) = k;
    }
  }

  Rows& rows_;
  int64_t row_, segment_, first_, end_;
};

// Row-major positions that ascend, as rows and columns; made by so many threads, each of which takes parts of them.
// Each position is read once, as other threads of Python may write to the array.
template <class Position>
Rows rows_of(const Positions<Position>& positions, int64_t rows, int64_t columns, int threads) {
  constexpr int64_t PART = 1 << 15;
  const int64_t count = positions.length(), parts = (count + PART - 1) / PART;
  require(rows > 0 && columns > 0, "a matrix has one row and one column at least");
  require_tables_fit(rows, columns), require_tables_fit(columns, rows);
  require(count <= MOST_WEIGHTS, "there are more weights than 32-bit numbers count");
  const auto read = [&](int64_t k) -> int64_t { return __atomic_load_n(positions.data() + k, __ATOMIC_RELAXED); };
  const auto require_ascending = [&](int64_t last, int64_t position) {
    require(position > last && position < rows * columns, "the positions do not ascend within the matrix");
  };
  std::vector<int64_t> firsts(static_cast<size_t>(parts));
  for (int64_t part = 0; part < parts; part++) {
    firsts[part] = read(part * PART);
    require_ascending(part ? firsts[part - 1] : -1, firsts[part]);
  }
  Rows made(rows, columns, count);
  uint16_t* const to = made.columns();
  parallel_for(parts, threads, [&](int64_t part) {
    const int64_t begin = part * PART, end = std::min(count, begin + PART);
    int64_t last = firsts[part];
    RowStarts starts(made, last);
    to[begin] = starts.column_of(last);
    for (int64_t k = begin + 1; k < end; k++) {
      const int64_t position = read(k);
      require_ascending(last, position);
      last = position;
      if (position >= starts.end()) starts.reach(position, static_cast<uint32_t>(k));
      to[k] = starts.column_of(position);
    }
    if (part + 1 == parts) return starts.behind_last(static_cast<uint32_t>(count));
    require_ascending(last, firsts[part + 1]);
    starts.reach(firsts[part + 1], static_cast<uint32_t>(end));
  });
  return made;
}

// Where parts of the rows begin and end, each in one segment: about as many as there are threads, but no more than have
// four weights for each column.
inline std::vector<int64_t> row_parts(const Rows& given, int threads) {
  const int64_t segments = (given.rows() + SEGMENT - 1) / SEGMENT;
  const int64_t most = std::max<int64_t>(given.count() / given.column_count() / 4, 1);
  const int64_t parts = (std::min<int64_t>(threads, most) + segments - 1) / segments;
  std::vector<int64_t> bounds;
  for (int64_t segment = 0; segment < segments; segment++) {
    const int64_t first = segment * SEGMENT, count = std::min(SEGMENT, given.rows() - first);
    for (int64_t part = 0; part < parts; part++) bounds.push_back(first + count * part / parts);
  }
  bounds.push_back(given.rows());
  return bounds;
}

// The same weights with rows and columns exchanged. Each part counts its weights by column, and writes them behind
// those of the parts before it.
inline Rows transposed(const Rows& given, int threads) {
  const int64_t columns = given.column_count();
  const std::vector<int64_t> bounds = row_parts(given, threads);
  const auto parts = static_cast<int64_t>(bounds.size()) - 1;
  Rows made(columns, given.rows(), given.count());
  std::vector<uint32_t> next(static_cast<size_t>(parts * columns));
  const auto for_each_of_part = [&](int64_t part, auto visit) {
    given.for_each(bounds[part], bounds[part + 1], visit);
  };
  parallel_for(parts, threads, [&](int64_t part) {
    uint32_t* const counts = next.data() + part * columns;
    for_each_of_part(part, [&](int64_t, int64_t column, uint32_t) { counts[column]++; });
  });
  uint32_t total = 0;
  for (int64_t column = 0; column < columns; column++) {
    for (int64_t part = 0; part < parts; part++) {
      const uint32_t count = std::exchange(next[part * columns + column], total);
      if (bounds[part] % SEGMENT == 0) made.start(bounds[part] / SEGMENT, column) = total;
      total += count;
    }
    made.start(made.segment_count(), column) = total;
  }
  uint16_t* const to = made.columns();
  parallel_for(parts, threads, [&](int64_t part) {
    uint32_t* const places = next.data() + part * columns;
    for_each_of_part(part, [&](int64_t row, int64_t column, uint32_t) {
      to[places[column]++] = static_cast<uint16_t>(row % SEGMENT);
    });
  });
  return made;
}

}  // namespace sparsecore
