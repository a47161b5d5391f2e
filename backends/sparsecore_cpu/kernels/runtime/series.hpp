// Jobs that follow each other closely, such as those of one prediction.
#pragma once

#include "runtime/openmp_team.hpp"
#include "runtime/own_threads.hpp"

namespace sparsecore {

// While there is one, threads that wait for a job stay awake. OpenMP decides itself how long its threads do.
class Series {
 public:
  explicit Series(int threads) {
    if (!uses_openmp()) wake_own_threads(threads);
    count_series(1);
  }
  ~Series() { count_series(-1); }
  Series(const Series&) = delete;
  Series& operator=(const Series&) = delete;
};

}  // namespace sparsecore
