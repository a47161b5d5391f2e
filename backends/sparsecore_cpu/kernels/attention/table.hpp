// The interface between the Python bindings and the kernels of attention: a table of functions for each instruction
// set.
#pragma once

#include <cstdint>

namespace sparsecore {

// Matrices (tokens, features) of some heads of some examples. The tokens of a feature lie behind each other; the other
// strides count floats.
struct HeadsView {
  float* data;
  int64_t example_stride, head_stride, feature_stride;

  float* of(int64_t example, int64_t head) const { return data + example * example_stride + head * head_stride; }
};

// out = softmax(scale * query * transposed key) * value for each head. If it is `causal`, a token reads the keys up to
// its own number only.
struct AttentionParams {
  HeadsView query, key, value, out;
  int64_t examples, heads, tokens, keys, features, value_features;
  float scale;
  bool causal;
  int threads;
};

// The same matrices where the features of a token lie behind each other.
struct TokensView {
  float* data;
  int64_t example_stride, head_stride, token_stride;

  float* of(int64_t example, int64_t head) const { return data + example * example_stride + head * head_stride; }
};

// The same with as many features of values as of keys. The logarithms of the sums of exp(score), (examples, heads,
// tokens), are written for the gradients.
struct TrainedAttentionParams {
  TokensView query, key, value, out;
  float* log_sums;
  int64_t examples, heads, tokens, keys, features;
  float scale;
  bool causal;
  int threads;
};

// The gradients of queries, keys and values from that of the outputs.
struct AttentionGradientsParams {
  TrainedAttentionParams attention;
  TokensView gradient, query_gradient, key_gradient, value_gradient;
};

// The kernels for one instruction set. They are thread-safe and keep no state. Results do not depend on the number of
// threads.
struct AttentionTable {
  const char* name;

  void (*attend)(const AttentionParams& params);
  void (*attend_in_training)(const TrainedAttentionParams& params);
  void (*attention_gradients)(const AttentionGradientsParams& params);
};

// The kernels for the instruction set of this name or, where it is empty, for the best one of this processor. Null
// where this processor has none of this name.
const AttentionTable* find_attention_kernels(const char* name);

}  // namespace sparsecore
