// The active weights of a matrix as blocks, where they are whole blocks of 16 outputs by 32 inputs.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "bindings/sparsity_rows.hpp"
#include "linear/blocks.hpp"

namespace sparsecore {

class ActiveBlocks {
 public:
  // The blocks that these weights make up. Nothing where there are none, or parts of blocks.
  static std::optional<ActiveBlocks> of(const Rows& weights) {
    if (!weights.count() || weights.rows() % BLOCK_OUTPUTS || weights.column_count() % BLOCK_INPUTS) return {};
    ActiveBlocks made;
    made.row_starts_ = {0};
    for (int64_t row = 0; row < weights.rows(); row += BLOCK_OUTPUTS)
      if (!made.append_row(weights, row)) return {};
    made.number_by_column(static_cast<size_t>(weights.column_count() / BLOCK_INPUTS));
    return made;
  }

  // Valid as long as this object.
  BlockList list() const {
    return {row_starts_.data(),
            columns_.data(),
            column_starts_.data(),
            rows_.data(),
            numbers_.data(),
            static_cast<int64_t>(row_starts_.size()) - 1,
            static_cast<int64_t>(column_starts_.size()) - 1};
  }

  template <class Visit>
  void for_each_array(Visit visit) const {
    for (const auto* array : {&row_starts_, &columns_, &column_starts_, &rows_, &numbers_})
      visit(array->data(), array->size());
  }

 private:
  using Numbers = std::vector<uint32_t>;

  // Appends the blocks of 16 outputs, the first of which is `output`; false where there are parts of blocks.
  bool append_row(const Rows& weights, int64_t output) {
    for (int64_t segment = 0; segment < weights.segment_count(); segment++) {
      const uint16_t* first = weights.columns() + weights.start(segment, output);
      const uint16_t* last = weights.columns() + weights.start(segment + 1, output);
      if (!append_blocks(segment, first, last)) return false;
      for (int64_t other = output + 1; other < output + BLOCK_OUTPUTS; other++)
        if (!std::equal(first, last, weights.columns() + weights.start(segment, other),
                        weights.columns() + weights.start(segment + 1, other)))
          return false;
    }
    row_starts_.push_back(static_cast<uint32_t>(columns_.size()));
    return true;
  }

  // Appends blocks that have these columns of a segment; false where the columns are not those of whole blocks.
  bool append_blocks(int64_t segment, const uint16_t* first, const uint16_t* last) {
    if ((last - first) % BLOCK_INPUTS) return false;
    for (; first < last; first += BLOCK_INPUTS) {
      // columns ascend, so that there is nothing but neighbours between these two
      if (*first % BLOCK_INPUTS || first[BLOCK_INPUTS - 1] != *first + BLOCK_INPUTS - 1) return false;
      columns_.push_back(static_cast<uint32_t>((segment * SEGMENT + *first) / BLOCK_INPUTS));
    }
    return true;
  }

  void number_by_column(size_t column_count) {
    column_starts_.assign(column_count + 1, 0), rows_.resize(columns_.size()), numbers_.resize(columns_.size());
    for (const uint32_t column : columns_) column_starts_[column + 1]++;
    for (size_t column = 0; column < column_count; column++) column_starts_[column + 1] += column_starts_[column];
    Numbers next(column_starts_.begin(), column_starts_.end() - 1);
    for (uint32_t row = 0; row + 1 < row_starts_.size(); row++)
      for (uint32_t block = row_starts_[row]; block < row_starts_[row + 1]; block++) {
        const uint32_t place = next[columns_[block]]++;
        rows_[place] = row, numbers_[place] = block;
      }
  }

  Numbers row_starts_, columns_, column_starts_, rows_, numbers_;
};

}  // namespace sparsecore
