// Attention in training, and its gradients: the features of a token lie behind each other in memory.
//
// Scores are computed in blocks of BLOCK queries by BLOCK keys, of which those are left out that no query of a causal
// block may read. For the gradients they are computed again, from the logarithms of the sums that weights were divided
// by. Vectors go along keys for scores and along features for what is multiplied by them; everything is copied into
// scratch memory, padded with zeros, so that the inner loops have neither ends nor strides of their own.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "attention/attention.hpp"

namespace SPARSECORE_VARIANT {

using sparsecore::AttentionGradientsParams;
using sparsecore::TokensView;
using sparsecore::TrainedAttentionParams;

constexpr int64_t BLOCK = 64, BLOCK_VECTORS = BLOCK / LANES;

// Sums that are kept in registers: so many rows of so many vectors.
constexpr int SUM_ROWS = 4;
#if defined(__AVX512F__) || defined(__ARM_NEON)
constexpr int SUM_VECTORS = 4;  // 32 registers
#else
constexpr int SUM_VECTORS = 2;  // 16 registers
#endif

inline int64_t whole_blocks(int64_t count) { return (count + BLOCK - 1) / BLOCK; }
inline int64_t whole_vectors(int64_t count) { return (count + LANES - 1) / LANES; }

// Numbers that vectors are multiplied by: that of a row and a term is at row * row_stride + term * term_stride.
struct Factors {
  const float* data;
  int64_t row_stride, term_stride;
};

// Rows of aligned vectors.
struct Rows {
  float* data;
  int64_t stride;

  float* at(int64_t row) const { return data + row * stride; }
};

enum class Product { WRITTEN, ADDED };

template <Product PRODUCT, int VECTORS>
inline __attribute__((always_inline)) void multiply_tile(const Factors& factors, const Rows& terms, int64_t count,
                                                         const Rows& out) {
  Vector sums[SUM_ROWS][VECTORS];
#pragma GCC unroll 4
  for (int row = 0; row < SUM_ROWS; row++)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++)
      sums[row][v] = PRODUCT == Product::ADDED ? load(out.at(row) + v * LANES) : zeros();
  const float *term = terms.data, *factor = factors.data;
  for (int64_t i = 0; i < count; i++, term += terms.stride, factor += factors.term_stride) {
    Vector loaded[VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) loaded[v] = load(term + v * LANES);
#pragma GCC unroll 4
    for (int row = 0; row < SUM_ROWS; row++)
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; v++) sums[row][v] += factor[row * factors.row_stride] * loaded[v];
  }
#pragma GCC unroll 4
  for (int row = 0; row < SUM_ROWS; row++)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) store(out.at(row) + v * LANES, sums[row][v]);
}

// What is computed of some rows of a product.
struct Part {
  int64_t first_term, last_term, vectors;
};

template <Product PRODUCT, int... COUNTS>
inline void multiply_tile(int64_t vectors, const Factors& factors, const Rows& terms, int64_t count, const Rows& out,
                          std::integer_sequence<int, COUNTS...>) {
  (void)((vectors == COUNTS + 1 && (multiply_tile<PRODUCT, COUNTS + 1>(factors, terms, count, out), true)) || ...);
}

// Writes or adds factors * terms to BLOCK rows; part(row) is what is computed of the SUM_ROWS rows from that one on.
template <Product PRODUCT, class PartOf>
void multiply_block(const Factors& factors, const Rows& terms, const Rows& out, int64_t vectors, PartOf part_of) {
  for (int64_t first = 0; first < vectors; first += SUM_VECTORS)
    for (int64_t row = 0; row < BLOCK; row += SUM_ROWS) {
      const Part part = part_of(row);
      const float* factor = factors.data + row * factors.row_stride + part.first_term * factors.term_stride;
      multiply_tile<PRODUCT>(
          std::min<int64_t>(part.vectors - first, SUM_VECTORS), {factor, factors.row_stride, factors.term_stride},
          {terms.at(part.first_term) + first * LANES, terms.stride}, part.last_term - part.first_term,
          {out.at(row) + first * LANES, out.stride}, std::make_integer_sequence<int, SUM_VECTORS>{});
    }
}

// Copies the tokens [first, first + BLOCK), times a factor, to rows of `stride` floats; what there is not becomes zero.
inline void copy_block(const float* from, const TokensView& view, int64_t first, int64_t tokens, int64_t features,
                       float factor, const Rows& to) {
  for (int64_t row = 0; row < BLOCK; row++) {
    const bool exists = first + row < tokens;
    const float* token = from + (first + row) * view.token_stride;
    for (int64_t i = 0; i < to.stride; i++) to.at(row)[i] = exists && i < features ? factor * token[i] : 0;
  }
}

// The same by feature: a row for each, with the BLOCK tokens in it.
inline void copy_transposed_block(const float* from, const TokensView& view, int64_t first, int64_t tokens,
                                  int64_t features, float* to) {
  for (int64_t feature = 0; feature < features; feature++)
    for (int64_t row = 0; row < BLOCK; row++)
      to[feature * BLOCK + row] = first + row < tokens ? from[(first + row) * view.token_stride + feature] : 0;
}

inline void write_block(const Rows& rows, const float* factors, int64_t first, int64_t tokens, int64_t features,
                        float* to, const TokensView& view) {
  for (int64_t row = 0; row < std::min(BLOCK, tokens - first); row++) {
    float* token = to + (first + row) * view.token_stride;
    for (int64_t i = 0; i < features; i++) token[i] = factors[row] * rows.at(row)[i];
  }
}

// The vector where the lane's number is less than `count`, elsewhere another number.
inline Vector first_or(Vector vector, int64_t count, float other) {
  return count >= LANES ? vector : lane_numbers() < broadcast(static_cast<float>(count)) ? vector : broadcast(other);
}

inline float greatest_lane(Vector vector) {
  float greatest = vector[0];
  for (int lane = 1; lane < LANES; lane++) greatest = vector[lane] > greatest ? vector[lane] : greatest;
  return greatest;
}

// One head of one example.
struct AttentionHead {
  const TrainedAttentionParams& params;
  int64_t example, head;
  int64_t stride = whole_vectors(params.features) * LANES;  // of rows of features
  int64_t key_blocks = whole_blocks(params.keys), query_blocks = whole_blocks(params.tokens);

  int64_t vectors() const { return stride / LANES; }

  // The blocks of keys that some query of a block reads, and the keys of one block that one query reads.
  int64_t blocks_read(int64_t query_block) const {
    return params.causal ? std::min(key_blocks, query_block + 1) : key_blocks;
  }
  int64_t keys_read(int64_t query, int64_t key_block) const {
    const int64_t end = query >= params.tokens ? 0 : params.causal ? std::min(params.keys, query + 1) : params.keys;
    return std::clamp<int64_t>(end - key_block * BLOCK, 0, BLOCK);
  }

  void copy(const TokensView& view, int64_t block, int64_t tokens, float factor, float* to) const {
    copy_block(view.of(example, head), view, block * BLOCK, tokens, params.features, factor, {to, stride});
  }

  void copy_transposed(const TokensView& view, int64_t block, float* to) const {
    copy_transposed_block(view.of(example, head), view, block * BLOCK, params.keys, params.features, to);
  }

  void write(const float* rows, const float* factors, int64_t block, int64_t tokens, const TokensView& view) const {
    write_block({const_cast<float*>(rows), stride}, factors, block * BLOCK, tokens, params.features,
                view.of(example, head), view);
  }

  float* log_sums(int64_t query_block) const {
    return params.log_sums + (example * params.heads + head) * params.tokens + query_block * BLOCK;
  }

  // Whether the mask leaves out about half of the products of these queries and keys.
  bool on_diagonal(int64_t query_block, int64_t key_block) const { return params.causal && query_block == key_block; }

  // scores = queries * transposed keys, (BLOCK, BLOCK), of the keys that are read.
  void write_scores(const float* queries, const float* transposed_keys, bool on_diagonal, float* scores) const {
    const Rows terms{const_cast<float*>(transposed_keys), BLOCK};
    multiply_block<Product::WRITTEN>({queries, stride, 1}, terms, {scores, BLOCK}, BLOCK_VECTORS, [&](int64_t query) {
      return Part{0, params.features, on_diagonal ? whole_vectors(query + SUM_ROWS) : BLOCK_VECTORS};
    });
  }

  // Writes or adds numbers of queries and keys, (BLOCK, BLOCK), times rows of keys, to rows of queries.
  template <Product PRODUCT>
  void multiply_keys(const float* numbers, const float* keys, bool on_diagonal, float* out) const {
    multiply_block<PRODUCT>({numbers, BLOCK, 1}, {const_cast<float*>(keys), stride}, {out, stride}, vectors(),
                            [&](int64_t query) { return Part{0, on_diagonal ? query + SUM_ROWS : BLOCK, vectors()}; });
  }

  // Adds transposed numbers times rows of queries to rows of keys.
  void add_queries(const float* numbers, const float* queries, bool on_diagonal, float* out) const {
    multiply_block<Product::ADDED>({numbers, 1, BLOCK}, {const_cast<float*>(queries), stride}, {out, stride}, vectors(),
                                   [&](int64_t key) { return Part{on_diagonal ? key : 0, BLOCK, vectors()}; });
  }

  void attend() const {
    static thread_local Scratch scratch;
    const int64_t block = BLOCK * stride, square = BLOCK * BLOCK;
    float* keys = scratch.request((2 * key_blocks + 2) * block + key_blocks * square);  // by feature
    float *values = keys + key_blocks * block, *queries = values + key_blocks * block, *sums = queries + block;
    float* scores = sums + block;  // of one block of queries and all blocks of keys
    for (int64_t k = 0; k < key_blocks; k++) {
      copy_transposed(params.key, k, keys + k * block);
      copy(params.value, k, params.keys, 1, values + k * block);
    }
    for (int64_t q = 0; q < query_blocks; q++) {
      copy(params.query, q, params.tokens, params.scale, queries);
      const int64_t read = blocks_read(q);
      for (int64_t k = 0; k < read; k++)
        write_scores(queries, keys + k * block, on_diagonal(q, k), scores + k * square);
      float inverses[BLOCK];
      exponentiate(scores, q, inverses);
      for (int64_t k = 0; k < read; k++)
        k ? multiply_keys<Product::ADDED>(scores + k * square, values + k * block, on_diagonal(q, k), sums)
          : multiply_keys<Product::WRITTEN>(scores, values, on_diagonal(q, 0), sums);
      write(sums, inverses, q, params.tokens, params.out);
    }
  }

 private:
  // Replaces the scores of a block of queries by exp(score - greatest); writes the inverses of their sums, and the
  // logarithms of the sums without that.
  void exponentiate(float* scores, int64_t q, float* inverses) const {
    constexpr float LOWEST = -std::numeric_limits<float>::infinity();
    for (int64_t row = 0; row < BLOCK; row++) {
      const auto visit = [&](auto function) {
        for (int64_t k = 0; k < blocks_read(q); k++) {
          const int64_t count = keys_read(q * BLOCK + row, k);
          for (int64_t i = 0; i < BLOCK; i += LANES) function(scores + (k * BLOCK + row) * BLOCK + i, count - i);
        }
      };
      Vector most = broadcast(LOWEST), total = zeros();
      visit([&](const float* score, int64_t count) {
        const Vector one = first_or(load(score), count, LOWEST);
        most = one > most ? one : most;
      });
      const float greatest = greatest_lane(most);
      visit([&](float* score, int64_t count) {
        const Vector power = first_or(exp(load(score) - greatest), count, 0);
        store(score, power);
        total += power;
      });
      const auto sum_of_row = static_cast<float>(sum(total));
      inverses[row] = 1 / sum_of_row;
      if (q * BLOCK + row < params.tokens) log_sums(q)[row] = greatest + std::log(sum_of_row);
    }
  }
};

// The gradients of one head of one example.
struct AttentionHeadGradients {
  const AttentionGradientsParams& params;
  const AttentionHead head;

  void compute() const {
    static thread_local Scratch scratch;
    const int64_t block = BLOCK * head.stride, square = BLOCK * BLOCK, all = head.key_blocks * block;
    float* memory = scratch.request(5 * all + 3 * block + 2 * square);
    const auto take = [&](int64_t count) { return memory += count, memory - count; };
    float *keys = take(all), *transposed_keys = take(all), *transposed_values = take(all);
    float *of_keys = take(all), *of_values = take(all);
    float *queries = take(block), *given = take(block), *of_queries = take(block);
    float *weights = take(square), *of_scores = take(square);
    const TrainedAttentionParams& own = params.attention;
    for (int64_t k = 0; k < head.key_blocks; k++) {
      head.copy(own.key, k, own.keys, 1, keys + k * block);
      head.copy_transposed(own.key, k, transposed_keys + k * block);
      head.copy_transposed(own.value, k, transposed_values + k * block);
    }
    std::fill(of_keys, of_keys + 2 * all, 0.0f);
    float ones[BLOCK], scales[BLOCK];
    std::fill(ones, ones + BLOCK, 1.0f);
    std::fill(scales, scales + BLOCK, own.scale);
    for (int64_t q = 0; q < head.query_blocks; q++) {
      head.copy(own.query, q, own.tokens, own.scale, queries);
      head.copy(params.gradient, q, own.tokens, 1, given);
      float sums[BLOCK];
      write_sums(q, given, sums);
      for (int64_t k = 0; k < head.blocks_read(q); k++) {
        const bool on_diagonal = head.on_diagonal(q, k);
        head.write_scores(queries, transposed_keys + k * block, on_diagonal, weights);
        head.write_scores(given, transposed_values + k * block, on_diagonal, of_scores);
        differentiate(q, k, sums, weights, of_scores);
        head.add_queries(weights, given, on_diagonal, of_values + k * block);
        head.add_queries(of_scores, queries, on_diagonal, of_keys + k * block);
        k ? head.multiply_keys<Product::ADDED>(of_scores, keys + k * block, on_diagonal, of_queries)
          : head.multiply_keys<Product::WRITTEN>(of_scores, keys, on_diagonal, of_queries);
      }
      head.write(of_queries, scales, q, own.tokens, params.query_gradient);
    }
    for (int64_t k = 0; k < head.key_blocks; k++) {
      head.write(of_keys + k * block, ones, k, own.keys, params.key_gradient);
      head.write(of_values + k * block, ones, k, own.keys, params.value_gradient);
    }
  }

 private:
  // Writes the sums of outputs times their gradients, by query: what the gradients of its scores have in common.
  void write_sums(int64_t q, const float* given, float* sums) const {
    const TrainedAttentionParams& own = params.attention;
    const float* outputs = own.out.of(head.example, head.head);
    for (int64_t row = 0; row < BLOCK; row++) {
      const int64_t query = q * BLOCK + row, whole = query < own.tokens ? own.features / LANES * LANES : 0;
      const float *output = outputs + query * own.out.token_stride, *gradient = given + row * head.stride;
      Vector products = zeros();
      for (int64_t i = 0; i < whole; i += LANES) products += load_unaligned(output + i) * load(gradient + i);
      double total = sum(products);
      for (int64_t i = whole; query < own.tokens && i < own.features; i++) total += output[i] * gradient[i];
      sums[row] = static_cast<float>(total);
    }
  }

  // Replaces scores by weights, and the gradients of weights by those of scores.
  void differentiate(int64_t q, int64_t k, const float* sums, float* scores, float* gradients) const {
    const float* log_sums = head.log_sums(q);
    for (int64_t row = 0; row < BLOCK; row++) {
      const int64_t count = head.keys_read(q * BLOCK + row, k);
      const float log_sum = count ? log_sums[row] : 0;
      for (int64_t i = 0; i < BLOCK; i += LANES) {
        float *score = scores + row * BLOCK + i, *gradient = gradients + row * BLOCK + i;
        const Vector weight = first_or(exp(load(score) - log_sum), count - i, 0);
        store(score, weight);
        store(gradient, first_or(weight * (load(gradient) - sums[row]), count - i, 0));
      }
    }
  }
};

inline void attend_in_training(const TrainedAttentionParams& params) {
  parallel_for(params.examples * params.heads, params.threads,
               [&](int64_t task) { AttentionHead{params, task / params.heads, task % params.heads}.attend(); });
}

inline void attention_gradients(const AttentionGradientsParams& params) {
  const TrainedAttentionParams& own = params.attention;
  parallel_for(own.examples * own.heads, own.threads, [&](int64_t task) {
    AttentionHeadGradients{params, {own, task / own.heads, task % own.heads}}.compute();
  });
}

}  // namespace SPARSECORE_VARIANT
