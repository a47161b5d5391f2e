// Copies of weights and features that are rounded to bfloat16 and lie as matrix tiles read them.
//
// What is summed over is taken in pairs: the numbers k and k + PAIRS of a tile's 2 * PAIRS numbers. So both halves of
// neighbouring pairs are neighbours in memory.
#pragma once

#include "linear/blocks.hpp"
#include "linear/matrix_tiles.hpp"
#include "linear/panels.hpp"
#include "simd/packing.hpp"
#ifdef __AVX512BF16__
#include "linear/pairs.hpp"
#endif

namespace SPARSECORE_VARIANT {

using sparsecore::BLOCK_INPUTS;
using sparsecore::BLOCK_OUTPUTS;
using sparsecore::BLOCK_WEIGHTS;
using sparsecore::BlockGradientsParams;
using sparsecore::BlockList;
using sparsecore::BlockParams;

// Pairs of bfloat16 numbers in each lane: the lanes of two vectors as the lower and the upper halves.
#ifdef __AVX512BF16__
inline Vector pairs_of(Vector lower, Vector upper) { return (Vector)(__m512)paired(lower, upper); }
#else
typedef uint32_t PairBits __attribute__((vector_size(LANES * sizeof(uint32_t)), may_alias));

// Rounds to the nearest number, ties to even, and subnormal numbers to zero, as the instruction for it does. What is
// not a number stays so.
inline PairBits rounded_halves(Vector numbers) {
  const PairBits bits = reinterpret_cast<PairBits>(numbers);
  const PairBits rounded = bits + 0x7fff + (bits >> 16 & 1), quiet = bits | 0x400000, zero = bits & 0x80000000u;
  return (numbers != numbers ? quiet : (bits & 0x7f800000u) == 0 ? zero : rounded) >> 16;
}

inline Vector pairs_of(Vector lower, Vector upper) {
  return reinterpret_cast<Vector>(rounded_halves(lower) | rounded_halves(upper) << 16);
}
#endif

// A range of a batch's members, from a multiple of 32 on. Features have so many floats, of which those behind the last
// member, up to a multiple of 32, count as zeros.
struct Members {
  static constexpr int64_t STEP = 2 * SIDE;
  int64_t first, last, floats;

  int64_t count() const { return last - first; }
  int64_t tiles() const { return (count() + SIDE - 1) / SIDE; }  // of 16 members
  int64_t steps() const { return (count() + STEP - 1) / STEP; }  // of 32

  // A vector of a feature; `feature` is its first member.
  Vector at(const float* feature, int64_t member) const { return member < last ? load(feature + member) : zeros(); }
};

// The ranges of a batch: as many members as half of a cache holds so many rounded features of, but not few.
class MemberRanges {
 public:
  MemberRanges(int64_t vectors, int64_t features, int64_t cache_bytes) : floats_(vectors * LANES) {
    constexpr int64_t FEWEST_STEPS = 4;
    const int64_t step_bytes = features * Members::STEP * static_cast<int64_t>(sizeof(uint16_t));
    const int64_t fit = cache_bytes / 2 / step_bytes, most = fit < FEWEST_STEPS ? FEWEST_STEPS : fit;
    steps_ = (floats_ + Members::STEP - 1) / Members::STEP;
    count_ = (steps_ + most - 1) / most;
  }

  template <class Visit>
  void for_each(Visit visit) const {
    for (int64_t number = 0; number < count_; number++) {
      const int64_t last = Members::STEP * (steps_ * (number + 1) / count_);
      visit(Members{Members::STEP * (steps_ * number / count_), last < floats_ ? last : floats_, floats_});
    }
  }

 private:
  int64_t floats_, steps_, count_;
};

// Writes a tile's transpose; row(number, column) is a vector of it.
template <class Row>
void write_transposed(Row row, float* to) {
  for (int first = 0; first < SIDE; first += LANES)
    for (int column = 0; column < SIDE; column += LANES) {
      Square square;
      for (int i = 0; i < LANES; i++) square[i] = row(first + i, column);
      transpose(square);
      for (int i = 0; i < LANES; i++) store(to + (column + i) * SIDE + first, square[i]);
    }
}

// A block's weights as the left factor of outputs: a row for each output, pairs of inputs. Outputs are `stride` floats
// apart.
inline void pack_weights(const float* weights, int64_t stride, float* to) {
  for (int output = 0; output < BLOCK_OUTPUTS; output++)
    for (int v = 0; v < SIDE; v += LANES) {
      const float* from = weights + output * stride + v;
      store(to + output * SIDE + v, pairs_of(load_unaligned(from), load_unaligned(from + SIDE)));
    }
}

// A block's weights as the left factors of the inputs' gradients: a row for each of the first 16 inputs and, side by
// side with it, one for each of the others, pairs of outputs.
inline void pack_transposed_weights(const float* weights, int64_t stride, float* to) {
  constexpr int PAIRS = BLOCK_OUTPUTS / 2;
  write_transposed(
      [=](int row, int column) {
        const float* from = weights + row % PAIRS * stride + row / PAIRS * SIDE + column;
        return pairs_of(load_unaligned(from), load_unaligned(from + PAIRS * stride));
      },
      to);
}

// 2 * PAIRS features as the right factor, for each 16 members: a row for each pair of features, a column for each
// member.
template <int PAIRS>
void pack_feature_pairs(const float* features, const Members& members, float* to) {
  for (int64_t first = members.first; first < members.last; first += SIDE)
    for (int pair = 0; pair < PAIRS; pair++, to += SIDE) {
      const float *lower = features + pair * members.floats, *upper = lower + PAIRS * members.floats;
      for (int v = 0; v < SIDE; v += LANES)
        store(to + v, pairs_of(members.at(lower, first + v), members.at(upper, first + v)));
    }
}

// 16 features as the left factor, for each 32 members: a row for each feature, pairs of members.
inline void pack_member_pairs(const float* features, const Members& members, float* to) {
  for (int64_t first = members.first; first < members.last; first += Members::STEP)
    for (int feature = 0; feature < SIDE; feature++, to += SIDE) {
      const float* from = features + feature * members.floats;
      for (int v = 0; v < SIDE; v += LANES)
        store(to + v, pairs_of(members.at(from, first + v), members.at(from, first + SIDE + v)));
    }
}

// 16 features as the right factor, for each 32 members: a row for each pair of members, a column for each feature.
inline void pack_transposed_members(const float* features, const Members& members, float* to) {
  for (int64_t first = members.first; first < members.last; first += Members::STEP, to += TILE_FLOATS)
    write_transposed(
        [&](int feature, int column) {
          const float* from = features + feature * members.floats;
          return pairs_of(members.at(from, first + column), members.at(from, first + SIDE + column));
        },
        to);
}

// Calls pack(number, to) for each piece of so many floats, on several threads.
template <class Pack>
const float* packed_pieces(Scratch& scratch, int64_t count, int64_t floats, int threads, Pack pack) {
  float* const made = scratch.request(count * floats);
  parallel_for(count, threads, [&](int64_t number) { pack(number, made + number * floats); });
  return made;
}

}  // namespace SPARSECORE_VARIANT
