// What lists of weights are made and filled with, for Python.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <vector>

#include "checked.hpp"
#include "pool.hpp"

using namespace nanobind::literals;

namespace sparsecore {
namespace {

// Stable, in one pass over the keys and one over the buckets: `order` gets the places of the keys by bucket, `pointers`
// (buckets + 1) where each bucket starts.
void sort_by_bucket(const Places& keys, const Places& order, const Places& pointers) {
  const int64_t count = static_cast<int64_t>(keys.shape(0)), buckets = static_cast<int64_t>(pointers.shape(0)) - 1;
  expect(keys.shape(0) == order.shape(0) && buckets >= 0, "the order has one entry a key");
  int32_t* next = pointers.data();
  std::fill(next, next + buckets + 1, 0);
  for (int64_t i = 0; i < count; i++) {
    expect(keys.data()[i] >= 0 && keys.data()[i] < buckets, "a key is no bucket");
    next[keys.data()[i] + 1]++;
  }
  std::partial_sum(next, next + buckets + 1, next);
  std::vector<int32_t> place(next, next + buckets);
  for (int64_t i = 0; i < count; i++) order.data()[place[keys.data()[i]]++] = static_cast<int32_t>(i);
}

// Calls visit(i, order[i]) for each i, on several threads where there are many; no place is above `most`.
template <class Visit>
void each_place(const Places& order, size_t most, int threads, Visit visit) {
  constexpr int64_t CHUNK = 1 << 16;
  const int64_t count = static_cast<int64_t>(order.shape(0));
  const int32_t* places = order.data();
  std::atomic<bool> fit{true};
  {
    nb::gil_scoped_release others_may_run;
    in_parallel((count + CHUNK - 1) / CHUNK, threads, [&](int64_t chunk) {
      for (int64_t i = chunk * CHUNK; i < std::min(count, (chunk + 1) * CHUNK); i++) {
        if (static_cast<uint32_t>(places[i]) <= most)
          visit(i, places[i]);
        else
          fit = false;
      }
    });
  }
  expect(fit, "the order has a place beyond the entries");
}

// listed[i] = entries[order[i]], and zero where that is one beyond the last.
void gather(const ReadFloats& entries, const Places& order, const Floats& listed, int threads) {
  expect(order.shape(0) == listed.shape(0), "the order has one place for each that is listed");
  const size_t count = entries.shape(0);
  const float* from = entries.data();
  float* to = listed.data();
  each_place(order, count, threads,
             [=](int64_t i, int32_t place) { to[i] = static_cast<size_t>(place) < count ? from[place] : 0.0f; });
}

// entries[order[i]] = listed[i], where there is such an entry; each comes once.
void scatter(const ReadFloats& listed, const Places& order, const Floats& entries, int threads) {
  expect(order.shape(0) == listed.shape(0), "the order has one place for each that is listed");
  const size_t count = entries.shape(0);
  const float* from = listed.data();
  float* to = entries.data();
  each_place(order, count, threads, [=](int64_t i, int32_t place) {
    if (static_cast<size_t>(place) < count) to[place] = from[i];
  });
}

}  // namespace

void add_lists(nb::module_& module) {
  module.def("sort_by_bucket", &sort_by_bucket, "keys"_a, "order"_a.noconvert(), "pointers"_a.noconvert());
  module.def("gather", &gather, "entries"_a, "order"_a.noconvert(), "listed"_a.noconvert(), "threads"_a);
  module.def("scatter", &scatter, "listed"_a, "order"_a.noconvert(), "entries"_a.noconvert(), "threads"_a);
}

}  // namespace sparsecore
