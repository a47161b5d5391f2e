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

// Read once and for all: an array of Python's may change while it is looked at.
inline int32_t read(const int32_t* place) { return __atomic_load_n(place, __ATOMIC_RELAXED); }

// Stable, in one pass over the keys and one over the buckets: `order` gets the places of the keys by bucket, `pointers`
// (buckets + 1) where each bucket starts.
void sort_by_bucket(nb::handle given_keys, nb::handle given_order, nb::handle given_pointers) {
  const ReadPlaces keys("keys", given_keys);
  const Places order("order", given_order), pointers("pointers", given_pointers);
  const int64_t count = keys.length(), buckets = pointers.length() - 1;
  expect(count == order.length() && buckets >= 0, "the order has one entry a key");
  expect(count <= std::numeric_limits<int32_t>::max(), "there are more keys than 32-bit numbers count");
  expect_apart(order.span(), {keys.span(), pointers.span()}), expect_apart(pointers.span(), {keys.span()});
  std::vector<int32_t> starts(static_cast<size_t>(buckets) + 1), sorted(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; i++) {
    const int32_t key = read(keys.data() + i);
    expect(key >= 0 && key < buckets, "a key is no bucket");
    starts[key + 1]++;
  }
  std::partial_sum(starts.begin(), starts.end(), starts.begin());
  std::vector<int32_t> place(starts.begin(), starts.end() - 1);
  for (int64_t i = 0; i < count; i++) {
    const int32_t key = read(keys.data() + i);
    expect(key >= 0 && key < buckets && place[key] < starts[key + 1], "the keys changed while they were sorted");
    sorted[place[key]++] = static_cast<int32_t>(i);
  }
  std::copy(sorted.begin(), sorted.end(), order.data());
  std::copy(starts.begin(), starts.end(), pointers.data());
}

// Calls visit(i, order[i]) for each i, on several threads where there are many; no place is above `most`.
template <class Visit>
void each_place(const ReadPlaces& order, int64_t most, int threads, Visit visit) {
  constexpr int64_t CHUNK = 1 << 16;
  const int64_t count = order.length();
  const int32_t* places = order.data();
  std::atomic<bool> fit{true};
  {
    nb::gil_scoped_release others_may_run;
    in_parallel((count + CHUNK - 1) / CHUNK, threads, [&](int64_t chunk) {
      for (int64_t i = chunk * CHUNK; i < std::min(count, (chunk + 1) * CHUNK); i++) {
        const int32_t place = read(places + i);
        if (place >= 0 && place <= most)
          visit(i, place);
        else
          fit = false;
      }
    });
  }
  expect(fit, "the order has a place beyond the entries");
}

// listed[i] = entries[order[i]], and zero where that is one beyond the last.
void gather(nb::handle given_entries, nb::handle given_order, nb::handle given_listed, Integer given_threads) {
  const int threads = thread_count(given_threads);
  const ReadFloats entries("entries", given_entries);
  const ReadPlaces order("order", given_order);
  const Floats listed("listed", given_listed);
  expect(order.length() == listed.length(), "the order has one place for each that is listed");
  expect_apart(listed.span(), {entries.span(), order.span()});
  const int64_t count = entries.length();
  const float* from = entries.data();
  float* to = listed.data();
  each_place(order, count, threads, [=](int64_t i, int32_t place) { to[i] = place < count ? from[place] : 0.0f; });
}

// entries[order[i]] = listed[i], where there is such an entry; each comes once.
void scatter(nb::handle given_listed, nb::handle given_order, nb::handle given_entries, Integer given_threads) {
  const int threads = thread_count(given_threads);
  const ReadFloats listed("listed", given_listed);
  const ReadPlaces order("order", given_order);
  const Floats entries("entries", given_entries);
  expect(order.length() == listed.length(), "the order has one place for each that is listed");
  expect_apart(entries.span(), {listed.span(), order.span()});
  const int64_t count = entries.length();
  const float* from = listed.data();
  float* to = entries.data();
  each_place(order, count, threads, [=](int64_t i, int32_t place) {
    if (place < count) to[place] = from[i];
  });
}

}  // namespace

void add_lists(nb::module_& module) {
  module.def("sort_by_bucket", &sort_by_bucket, "keys"_a.none(), "order"_a.none(), "pointers"_a.none());
  module.def("gather", &gather, "entries"_a.none(), "order"_a.none(), "listed"_a.none(), "threads"_a);
  module.def("scatter", &scatter, "listed"_a.none(), "order"_a.none(), "entries"_a.none(), "threads"_a);
}

}  // namespace sparsecore
