// Linear layers whose outputs and weights' gradients are sums of products of bfloat16 numbers, two at a time. Inputs,
// weights and gradients are rounded to these; sums and results are in single precision.
//
// An instruction multiplies two neighbouring halves of each lane: two neighbouring features of a member of the batch
// where features are summed, and two members where the batch is summed. A weight whose neighbour is not active is
// multiplied next to a zero. The instruction takes subnormal numbers as zeros.
#pragma once

#include "linear/gradients.hpp"
#include "linear/pairs.hpp"

namespace SPARSECORE_VARIANT {

inline Pairs load_pairs(const float* from) { return (Pairs)_mm512_load_ps(from); }
inline void store_pairs(float* to, Pairs pairs) { _mm512_store_ps(to, (__m512)pairs); }

inline Vector add_products(Vector sums, Pairs one, Pairs other) {
  return (Vector)_mm512_dpbf16_ps((__m512)sums, one, other);
}

// Rounds numbers to bfloat16, as floats whose lower halves are zero. The one behind the last is a zero.
inline void round_numbers(const float* from, float* to, int64_t count) {
  constexpr int64_t STEP = 16;
  for (int64_t i = 0; i < count; i += STEP) {
    const __mmask16 inside = count - i >= STEP ? 0xffff : static_cast<__mmask16>((1u << (count - i)) - 1);
    const __m512i halves = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(inside, from + i)));
    _mm512_mask_storeu_epi32(to + i, inside, _mm512_slli_epi32(halves, 16));
  }
  to[count] = 0;
}

// A rounded number in each lane, next to a zero: in the upper half for odd features, and in the lower half for even
// ones. There it is read two bytes further on, with the lower half of the number that follows.
inline __attribute__((always_inline)) Pairs number_of(const float* rounded, uint16_t feature) {
  const char* address = reinterpret_cast<const char*>(rounded) + (feature % 2 ? 0 : 2);
  int32_t bits;
  __builtin_memcpy(&bits, address, sizeof bits);
  return (Pairs)_mm512_set1_epi32(bits);
}

// Pairs of features of a panel: the first and the second, the third and the fourth, and so on.
template <int VECTORS>
ReadFeatures paired_features(Scratch& scratch, const ReadFeatures& from, int64_t count, int threads) {
  constexpr int64_t CHUNK = 256;
  const int64_t pairs = (count + 1) / 2;
  const WrittenFeatures made = packed_features<VECTORS>(scratch, pairs);
  parallel_for((pairs + CHUNK - 1) / CHUNK, threads, [&](int64_t chunk) {
    const int64_t last = (chunk + 1) * CHUNK < pairs ? (chunk + 1) * CHUNK : pairs;
    for (int64_t pair = chunk * CHUNK; pair < last; pair++) {
      const bool is_single = 2 * pair + 1 == count;
      for (int v = 0; v < VECTORS; v++) {
        const Vector second = is_single ? zeros() : load(from.at(2 * pair + 1) + v * LANES);
        store_pairs(made.at(pair) + v * LANES, paired(load(from.at(2 * pair) + v * LANES), second));
      }
    }
  });
  return {made.data, made.stride};
}

// Sums of an output in registers through its weights in a tile of inputs; with few vectors in turns, as in RowSums.
template <int VECTORS>
struct PairSums {
  static constexpr int WAYS = RowSums<VECTORS>::WAYS;
  Vector sums[WAYS][VECTORS];

  inline __attribute__((always_inline)) explicit PairSums(const float* from) {
    for (int way = 0; way < WAYS; way++)
      for (int v = 0; v < VECTORS; v++) sums[way][v] = way || !from ? zeros() : load(from + v * LANES);
  }

  inline __attribute__((always_inline)) void add(float number) {
    for (int v = 0; v < VECTORS; v++) sums[0][v] += number;
  }

  // Adds numbers(k) * x for every STEP-th of the weights [first, last).
  template <int STEP, class Numbers>
  inline __attribute__((always_inline)) void add(const uint16_t* columns, Numbers numbers, const ReadFeatures& x,
                                                 uint32_t first, uint32_t last) {
    uint32_t k = first;
    for (; k + STEP * WAYS <= last; k += STEP * WAYS)
#pragma GCC unroll 4
      for (int way = 0; way < WAYS; way++) add_pair(numbers, x, columns, k + STEP * way, sums[way]);
    if (WAYS > 1)
      for (; k < last; k += STEP) add_pair(numbers, x, columns, k, sums[0]);
  }

  inline __attribute__((always_inline)) void write(float* to) const {
    for (int v = 0; v < VECTORS; v++) {
      Vector total = sums[0][v];
      for (int way = 1; way < WAYS; way++) total += sums[way][v];
      store(to + v * LANES, total);
    }
  }

 private:
  template <class Numbers>
  inline __attribute__((always_inline)) static void add_pair(Numbers numbers, const ReadFeatures& x,
                                                             const uint16_t* columns, uint32_t k,
                                                             Vector (&sums)[VECTORS]) {
    const Pairs factors = numbers(k);
    const float* from = pin_register(x.at(columns[k] / 2));
#pragma GCC unroll 16
    for (int v = 0; v < VECTORS; v++) sums[v] = add_products(sums[v], factors, load_pairs(from + v * LANES));
  }
};

// The outputs [first, last), as `multiply` does; `rounded` are the values of these outputs' weights.
template <int VECTORS, bool PAIRED>
void multiply_pairs(const TiledRows& weights, const float* rounded, const ReadFeatures& x, const Start& start,
                    const WrittenFeatures& out, int64_t first, int64_t last) {
  const RunPrefetcher prefetcher(weights);
  const uint16_t* columns = weights.columns;
  const float* values = rounded - weights.starts[first];
  const auto numbers = [=](uint32_t k) __attribute__((always_inline)) {
    if constexpr (!PAIRED) return number_of(values + k, columns[k]);
    uint32_t bits[2];
    __builtin_memcpy(bits, values + k, sizeof bits);
    return (Pairs)_mm512_set1_epi32(static_cast<int32_t>(bits[0] >> 16 | bits[1]));
  };
  for (int64_t tile = 0; tile < weights.tiles(); tile++) {
    const uint32_t *starts = weights.starts + tile * weights.rows, *ends = starts + weights.rows;
    const ReadFeatures inputs = x.from(weights.segment_of(tile) / 2);
    for (int64_t output = first; output < last; output++) {
      const uint32_t later = starts[prefetcher.row_ahead(output)];
      prefetcher.request(values + later), prefetcher.request(columns + later);
      float* to = out.at(output - first);
      PairSums<VECTORS> sums(start.memory(tile, output, to));
      start.add_bias(tile, output, sums);
      sums.template add<PAIRED ? 2 : 1>(columns, numbers, inputs, starts[output], ends[output]);
      sums.write(to);
    }
  }
}

// The outputs [first, last) of a panel, and their moments if `sums` is not null.
template <int VECTORS>
void rounded_forward_task(const LinearParams& params, const Panel& panel, const ReadFeatures& x, int64_t first,
                          int64_t last, double* sums) {
  static thread_local Scratch rounded_values;
  const TiledRows& weights = params.by_output;
  const int64_t weight_bytes = sizeof(float) + sizeof(uint16_t), output_bytes = VECTORS * sizeof(Vector);
  const int64_t block = rows_that_fit(weights, params.cache_bytes, weight_bytes, output_bytes);
  const bool packed = panel.count() < params.vectors;
  const Start start_from{features_of(params.add, params.vectors, panel), params.bias};
  const WrittenFeatures target = features_of(params.out, params.vectors, panel);
  const uint32_t* const ends = weights.starts + weights.tiles() * weights.rows;
  for (int64_t i = 2 * first; sums && i < 2 * last; i++) sums[i] = 0;
  for (int64_t start = first; start < last; start += block) {
    const int64_t end = start + block < last ? start + block : last;
    const uint32_t from = weights.starts[start], count = ends[end - 1] - from;
    float* const rounded = rounded_values.request(count + 1);
    round_numbers(params.values + from, rounded, count);
    WrittenFeatures out = target.from(start);
    if (packed) out = packed_features<VECTORS>(panel_scratch().written, end - start);
    weights.paired ? multiply_pairs<VECTORS, true>(weights, rounded, x, start_from, out, start, end)
                   : multiply_pairs<VECTORS, false>(weights, rounded, x, start_from, out, start, end);
    clear_unused_lanes<VECTORS>(params, panel, out, end - start);
    const ReadFeatures made{out.data, out.stride};
    if (sums) add_moments<VECTORS>(made, end - start, sums + 2 * start);
    if (packed) copy_features<VECTORS>(made, target.from(start), end - start);
  }
}

inline void rounded_forward(const LinearParams& params) {
  for_each_panel(params, [&](auto vectors, const Panel& panel, int64_t tasks, int threads, double* sums) {
    constexpr int VECTORS = decltype(vectors)::value;
    const int64_t outputs = params.by_output.rows;
    const ReadFeatures x = paired_features<VECTORS>(
        panel_scratch().shared, features_of(params.x, params.vectors, panel), params.by_output.column_count, threads);
    parallel_for(tasks, threads, [&](int64_t task) {
      const int64_t first = outputs * task / tasks, last = outputs * (task + 1) / tasks;
      rounded_forward_task<VECTORS>(params, panel, x, first, last, sums);
    });
  });
}

// Features of a panel with two members of the batch in each lane, of two neighbouring vectors. Each takes as many
// floats of memory as it has such lanes.
template <int VECTORS>
constexpr int PAIRED_VECTORS = (VECTORS + 1) / 2;

template <int VECTORS>
ReadFeatures paired_members(Scratch& scratch, const ReadFeatures& from, int64_t count, int threads) {
  constexpr int64_t CHUNK = 512;
  const WrittenFeatures made = packed_features<PAIRED_VECTORS<VECTORS>>(scratch, count);
  parallel_for((count + CHUNK - 1) / CHUNK, threads, [&](int64_t chunk) {
    const int64_t last = (chunk + 1) * CHUNK < count ? (chunk + 1) * CHUNK : count;
    for (int64_t feature = chunk * CHUNK; feature < last; feature++)
      for (int v = 0; v < VECTORS; v += 2) {
        const float* members = from.at(feature) + v * LANES;
        const Vector second = v + 1 < VECTORS ? load(members + LANES) : zeros();
        store_pairs(made.at(feature) + v / 2 * LANES, paired(load(members), second));
      }
  });
  return {made.data, made.stride};
}

// The products of a feature's members with those of another one, summed over vectors but not over their lanes.
template <int COUNT>
struct PairedRow {
  Pairs vectors[COUNT];

  inline __attribute__((always_inline)) explicit PairedRow(const float* from) {
    for (int v = 0; v < COUNT; v++) vectors[v] = load_pairs(from + v * LANES);
  }

  inline __attribute__((always_inline)) Vector products(const float* from) const {
    from = pin_register(from);
    Vector total = zeros();
#pragma GCC unroll 8
    for (int v = 0; v < COUNT; v++) total = add_products(total, vectors[v], load_pairs(from + v * LANES));
    return total;
  }
};

inline void rounded_weight_gradient(const LinearGradientsParams& params) {
  const TiledRows& weights = params.by_output;
  const int64_t outputs = weights.rows, inputs = weights.column_count, tasks = task_count(outputs);
  for_each_panel_of_gradients(
      params, params.weights, [&](auto vectors, const Panel& panel, const PanelSums& sums, int threads) {
        constexpr int VECTORS = decltype(vectors)::value;
        using Row = PairedRow<PAIRED_VECTORS<VECTORS>>;
        const ReadFeatures x = paired_members<VECTORS>(panel_scratch().shared,
                                                       features_of(params.x, params.vectors, panel), inputs, threads);
        const ReadFeatures given = features_of(params.gradient, params.vectors, panel);
        parallel_for(tasks, threads, [&](int64_t task) {
          const int64_t first = outputs * task / tasks, last = outputs * (task + 1) / tasks;
          const ReadFeatures gradient =
              paired_members<VECTORS>(panel_scratch().read, given.from(first), last - first, 1);
          weight_gradients<Row>(weights, x, gradient, sums, first, last);
        });
      });
}

// The inputs' gradients are computed in single precision: to round weights in the order in which they are read there
// takes more time than it saves.
inline void rounded_gradients(const LinearGradientsParams& params) {
  if (params.inputs) input_gradient(params, false);
  if (params.weights) rounded_weight_gradient(params);
}

}  // namespace SPARSECORE_VARIANT
