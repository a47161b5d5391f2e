// A pool of threads. Which thread runs which task never changes a result.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <new>

namespace sparsecore {

// Calls task(0) ... task(count - 1) on at most `threads` threads, the calling one among them, and returns when all
// tasks are done. Where tasks throw, tasks that have not begun may be left out; when none runs any more, the first
// exception is thrown again on the calling thread.
void parallel_for(int64_t count, int threads, const std::function<void(int64_t)>& task);

// For tests: how many more requests for scratch memory succeed before one fails; negative where none is made to fail.
extern std::atomic<int64_t> scratch_requests_until_failure;

inline void fail_scratch_request_if_due() {
  auto& left = scratch_requests_until_failure;
  if (left.load(std::memory_order_relaxed) >= 0 && left.fetch_sub(1) == 0) throw std::bad_alloc();
}

}  // namespace sparsecore
