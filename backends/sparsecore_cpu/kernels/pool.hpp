// Threads that wait for work; which thread does which task never changes a result.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <new>

namespace sparsecore {

// Call task(0) ... task(count - 1), on at most `threads` threads, the calling one among them; return when all are done.
// Where tasks throw, some others may not be begun; when none runs any more, the first exception is thrown here.
void in_parallel(int64_t count, int threads, const std::function<void(int64_t)>& task);

// For tests: how many more times tasks get scratch memory before there is none, once; negative where there always is.
extern std::atomic<int64_t> scratch_left;

inline void expect_scratch() {
  if (scratch_left.load(std::memory_order_relaxed) >= 0 && scratch_left.fetch_sub(1) == 0) throw std::bad_alloc();
}

}  // namespace sparsecore
