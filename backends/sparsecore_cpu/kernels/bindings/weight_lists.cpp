// Functions that make lists of weights and fill them with values, for Python.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <vector>

#include "bindings/operands.hpp"
#include "runtime/thread_pool.hpp"

using namespace nanobind::literals;

namespace sparsecore {
namespace {

// Reads an index exactly once, so that what is checked is what is used: other Python threads may write to the array.
inline int32_t read_once(const int32_t* index) { return __atomic_load_n(index, __ATOMIC_RELAXED); }

void sort_by_bucket(nb::handle given_keys, nb::handle given_order, nb::handle given_pointers) {
  const ReadonlyIndices keys("keys", given_keys);
  const Indices order("order", given_order), pointers("pointers", given_pointers);
  const int64_t count = keys.length(), buckets = pointers.length() - 1;
  require(count == order.length() && buckets >= 0, "the order has one entry a key");
  require(count <= std::numeric_limits<int32_t>::max(), "there are more keys than 32-bit numbers count");
  require_disjoint(order.memory(), {keys.memory(), pointers.memory()});
  require_disjoint(pointers.memory(), {keys.memory()});
  std::vector<int32_t> starts(static_cast<size_t>(buckets) + 1), sorted(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; i++) {
    const int32_t key = read_once(keys.data() + i);
    require(key >= 0 && key < buckets, "a key is no bucket");
    starts[key + 1]++;
  }
  std::partial_sum(starts.begin(), starts.end(), starts.begin());
  std::vector<int32_t> next(starts.begin(), starts.end() - 1);
  for (int64_t i = 0; i < count; i++) {
    const int32_t key = read_once(keys.data() + i);
    require(key >= 0 && key < buckets && next[key] < starts[key + 1], "the keys changed while they were sorted");
    sorted[next[key]++] = static_cast<int32_t>(i);
  }
  std::copy(sorted.begin(), sorted.end(), order.data());
  std::copy(starts.begin(), starts.end(), pointers.data());
}

// Calls visit(i, order[i]) for each i, on several threads where there are many. An index above `most` is refused.
template <class Visit>
void for_each_index(const ReadonlyIndices& order, int64_t most, int threads, Visit visit) {
  constexpr int64_t CHUNK = 1 << 16;
  const int64_t count = order.length();
  const int32_t* indices = order.data();
  std::atomic<bool> all_fit{true};
  {
    nb::gil_scoped_release release;
    parallel_for((count + CHUNK - 1) / CHUNK, threads, [&](int64_t chunk) {
      for (int64_t i = chunk * CHUNK; i < std::min(count, (chunk + 1) * CHUNK); i++) {
        const int32_t index = read_once(indices + i);
        if (index >= 0 && index <= most)
          visit(i, index);
        else
          all_fit = false;
      }
    });
  }
  require(all_fit, "the order has a place beyond the entries");
}

void gather(nb::handle given_entries, nb::handle given_order, nb::handle given_listed, Integer given_threads) {
  const int threads = thread_count(given_threads);
  const ReadonlyFloats entries("entries", given_entries);
  const ReadonlyIndices order("order", given_order);
  const Floats listed("listed", given_listed);
  require(order.length() == listed.length(), "the order has one place for each that is listed");
  require_disjoint(listed.memory(), {entries.memory(), order.memory()});
  const int64_t count = entries.length();
  const float* from = entries.data();
  float* to = listed.data();
  for_each_index(order, count, threads, [=](int64_t i, int32_t index) { to[i] = index < count ? from[index] : 0.0f; });
}

void scatter(nb::handle given_listed, nb::handle given_order, nb::handle given_entries, Integer given_threads) {
  const int threads = thread_count(given_threads);
  const ReadonlyFloats listed("listed", given_listed);
  const ReadonlyIndices order("order", given_order);
  const Floats entries("entries", given_entries);
  require(order.length() == listed.length(), "the order has one place for each that is listed");
  require_disjoint(entries.memory(), {listed.memory(), order.memory()});
  const int64_t count = entries.length();
  const float* from = listed.data();
  float* to = entries.data();
  for_each_index(order, count, threads, [=](int64_t i, int32_t index) {
    if (index < count) to[index] = from[i];
  });
}

}  // namespace

void add_weight_lists(nb::module_& module) {
  module.def("sort_by_bucket", &sort_by_bucket, "keys"_a.none(), "order"_a.none(), "pointers"_a.none(),
             R"(Sorts keys by counting; stable.

``order`` gets the indices of the keys by bucket, ``pointers`` where each bucket starts.)",
             nb::sig("def sort_by_bucket(keys: " INDICES ", order: " INDICES ", pointers: " INDICES ") -> None"));
  module.def("gather", &gather, "entries"_a.none(), "order"_a.none(), "listed"_a.none(), "threads"_a,
             "Sets ``listed[i] = entries[order[i]]``, and zero where ``order[i]`` is the number of entries.",
             nb::sig("def gather(entries: " FLOATS ", order: " INDICES ", listed: " FLOATS ", threads: int) -> None"));
  module.def("scatter", &scatter, "listed"_a.none(), "order"_a.none(), "entries"_a.none(), "threads"_a,
             R"(Sets ``entries[order[i]] = listed[i]``, except where ``order[i]`` is the number of entries.

Each entry must occur once.)",
             nb::sig("def scatter(listed: " FLOATS ", order: " INDICES ", entries: " FLOATS ", threads: int) -> None"));
}

}  // namespace sparsecore
