// Attention for Python.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <string>

#include "attention/table.hpp"
#include "bindings/operands.hpp"

using namespace nanobind::literals;

namespace sparsecore {
namespace {

// (examples, heads, tokens, features), any strides but that of tokens.
template <class Scalar>
struct Heads : Array<Scalar, 4, false> {
  Heads(const char* name, nb::handle given) : Array<Scalar, 4, false>(name, given) {
    require(this->length(2) <= 1 || this->stride(2) == 1, "the tokens of a feature are not behind each other");
  }

  HeadsView view() const {
    return {const_cast<float*>(this->data()), this->stride(0), this->stride(1), this->stride(3)};
  }
};

// (examples, heads, tokens, features), any strides but that of features.
template <class Scalar>
struct Tokens : Array<Scalar, 4, false> {
  Tokens(const char* name, nb::handle given) : Array<Scalar, 4, false>(name, given) {
    require(this->length(3) <= 1 || this->stride(3) == 1, "the features of a token are not behind each other");
  }

  TokensView view() const {
    return {const_cast<float*>(this->data()), this->stride(0), this->stride(1), this->stride(2)};
  }

  template <class Other>
  void require_shape(const Tokens<Other>& other, const char* sentence) const {
    for (int axis = 0; axis < 4; axis++) require(this->length(axis) == other.length(axis), sentence);
  }
};

const AttentionTable& table_of(const std::string& kernels) {
  const AttentionTable* table = find_attention_kernels(kernels.c_str());
  require(table, "this processor has no kernels of that name");
  return *table;
}

// The operands of attention in training, checked against each other.
struct TrainedAttention {
  Tokens<const float> query, key, value;
  Tokens<float> out;
  Array<float, 3> log_sums;
  bool causal;
  float scale;
  int threads;

  TrainedAttention(nb::handle given_query, nb::handle given_key, nb::handle given_value, nb::handle given_out,
                   nb::handle given_sums, bool causal, float scale, Integer given_threads)
      : query("query", given_query),
        key("key", given_key),
        value("value", given_value),
        out("out", given_out),
        log_sums("log_sums", given_sums),
        causal(causal),
        scale(scale),
        threads(thread_count(given_threads)) {
    value.require_shape(key, "values have the shape of keys");
    out.require_shape(query, "outputs have the shape of queries");
    require(key.length(0) == query.length(0) && key.length(1) == query.length(1) && key.length(3) == query.length(3),
            "all have the same examples, heads and features");
    require(key.length(2) > 0 && key.length(3) > 0, "there is no key, or no feature");
    for (int axis = 0; axis < 3; axis++)
      require(log_sums.length(axis) == query.length(axis), "the logarithms of sums are (examples, heads, tokens)");
  }

  TrainedAttentionParams params() const {
    return {query.view(),    key.view(),      value.view(),    out.view(),    log_sums.data(),
            query.length(0), query.length(1), query.length(2), key.length(2), query.length(3),
            scale,           causal,          threads};
  }
};

void attend_in_training(const std::string& kernels, nb::handle query, nb::handle key, nb::handle value, nb::handle out,
                        nb::handle log_sums, bool causal, float scale, Integer threads) {
  const AttentionTable& table = table_of(kernels);
  const TrainedAttention given(query, key, value, out, log_sums, causal, scale, threads);
  const auto read = {given.query.memory(), given.key.memory(), given.value.memory()};
  require_disjoint(given.out.memory(), read);
  require_disjoint(given.log_sums.memory(), read);
  require_disjoint(given.log_sums.memory(), {given.out.memory()});
  nb::gil_scoped_release release;
  table.attend_in_training(given.params());
}

void attention_gradients(const std::string& kernels, nb::handle query, nb::handle key, nb::handle value, nb::handle out,
                         nb::handle log_sums, nb::handle given_gradient, nb::handle query_gradient,
                         nb::handle key_gradient, nb::handle value_gradient, bool causal, float scale,
                         Integer threads) {
  const AttentionTable& table = table_of(kernels);
  const TrainedAttention given(query, key, value, out, log_sums, causal, scale, threads);
  const Tokens<const float> gradient("gradient", given_gradient);
  const Tokens<float> of_query("query_gradient", query_gradient), of_key("key_gradient", key_gradient),
      of_value("value_gradient", value_gradient);
  gradient.require_shape(given.out, "the gradient has the shape of outputs");
  of_query.require_shape(given.query, "the gradient of queries has their shape");
  of_key.require_shape(given.key, "the gradient of keys has their shape");
  of_value.require_shape(given.value, "the gradient of values has their shape");
  const auto read = {given.query.memory(), given.key.memory(),      given.value.memory(),
                     given.out.memory(),   given.log_sums.memory(), gradient.memory()};
  for (const auto* written : {&of_query, &of_key, &of_value}) require_disjoint(written->memory(), read);
  require_disjoint(of_query.memory(), {of_key.memory(), of_value.memory()});
  require_disjoint(of_key.memory(), {of_value.memory()});
  const AttentionGradientsParams params{given.params(), gradient.view(), of_query.view(), of_key.view(),
                                        of_value.view()};
  nb::gil_scoped_release release;
  table.attention_gradients(params);
}

void attend(const std::string& kernels, nb::handle given_query, nb::handle given_key, nb::handle given_value,
            nb::handle given_out, bool causal, float scale, Integer given_threads) {
  const int threads = thread_count(given_threads);
  const AttentionTable& table = table_of(kernels);
  const Heads<const float> query("query", given_query), key("key", given_key), value("value", given_value);
  const Heads<float> out("out", given_out);
  for (int axis = 0; axis < 2; axis++)
    for (const auto* operand : {&key, &value})
      require(operand->length(axis) == query.length(axis), "all have the same examples and heads");
  require(key.length(3) == query.length(3), "queries and keys have the same features");
  require(key.length(2) == value.length(2), "there are as many values as keys");
  const int64_t shape[] = {query.length(0), query.length(1), query.length(2), value.length(3)};
  for (int axis = 0; axis < 4; axis++)
    require(out.length(axis) == shape[axis], "outputs are (examples, heads, tokens, features of a value)");
  require_disjoint(out.memory(), {query.memory(), key.memory(), value.memory()});
  const AttentionParams params{query.view(), key.view(),      value.view(),  out.view(),      shape[0],
                               shape[1],     query.length(2), key.length(2), query.length(3), shape[3],
                               scale,        causal,          threads};
  nb::gil_scoped_release release;
  table.attend(params);
}

}  // namespace

void add_attention(nb::module_& module) {
  module.def("attend", &attend, "kernels"_a, "query"_a.none(), "key"_a.none(), "value"_a.none(), "out"_a.none(),
             "causal"_a, "scale"_a, "threads"_a,
             R"(Computes out = softmax(scale·query·keyᵀ)·value for each head.

All are (examples, heads, tokens, features) of any strides, but the tokens of a feature lie behind each other. If it
is ``causal``, a token reads the keys up to its own number only. ``kernels`` is the name of an instruction set.)",
             nb::sig("def attend(kernels: str, query: " FLOATS ", key: " FLOATS ", value: " FLOATS ", out: " FLOATS
                     ", causal: bool, scale: float, threads: int) -> None"));
  module.def("attend_in_training", &attend_in_training, "kernels"_a, "query"_a.none(), "key"_a.none(), "value"_a.none(),
             "out"_a.none(), "log_sums"_a.none(), "causal"_a, "scale"_a, "threads"_a,
             R"(Computes out = softmax(scale·query·keyᵀ)·value for each head, and what the gradients need.

All are (examples, heads, tokens, features) of any strides, but the features of a token lie behind each other.
Values have the shape of keys. The logarithms of the sums of exp(scale·query·keyᵀ) are written to ``log_sums``,
(examples, heads, tokens). If it is ``causal``, a token reads the keys up to its own number only.)",
             nb::sig("def attend_in_training(kernels: str, query: " FLOATS ", key: " FLOATS ", value: " FLOATS
                     ", out: " FLOATS ", log_sums: " FLOATS ", causal: bool, scale: float, threads: int) -> None"));
  module.def("attention_gradients", &attention_gradients, "kernels"_a, "query"_a.none(), "key"_a.none(),
             "value"_a.none(), "out"_a.none(), "log_sums"_a.none(), "gradient"_a.none(), "query_gradient"_a.none(),
             "key_gradient"_a.none(), "value_gradient"_a.none(), "causal"_a, "scale"_a, "threads"_a,
             R"(Computes the gradients of queries, keys and values from that of the outputs.

``out`` and ``log_sums`` are those that attend_in_training wrote, and each gradient has the shape of its array.)",
             nb::sig("def attention_gradients(kernels: str, query: " FLOATS ", key: " FLOATS ", value: " FLOATS
                     ", out: " FLOATS ", log_sums: " FLOATS ", gradient: " FLOATS ", query_gradient: " FLOATS
                     ", key_gradient: " FLOATS ", value_gradient: " FLOATS
                     ", causal: bool, scale: float, threads: int) -> None"));
}

}  // namespace sparsecore
