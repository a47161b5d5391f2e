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

void attend(const std::string& kernels, nb::handle given_query, nb::handle given_key, nb::handle given_value,
            nb::handle given_out, bool causal, float scale, Integer given_threads) {
  const int threads = thread_count(given_threads);
  const AttentionTable* table = find_attention_kernels(kernels.c_str());
  require(table, "this processor has no kernels of that name");
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
  table->attend(params);
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
}

}  // namespace sparsecore
