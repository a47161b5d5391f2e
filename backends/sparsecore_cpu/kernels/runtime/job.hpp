// The tasks of one parallel loop, as its threads share them out.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <vector>

namespace sparsecore {

// Each thread has a range of consecutive tasks, and takes tasks of the others when its own are done. So the tasks of
// the same number, which work on the same part of a batch in one loop after the other, mostly run on the same core and
// find the part in its caches, and no thread waits while there are tasks.
class Job {
 public:
  // For at most so many threads. The task must outlive the job.
  Job(int64_t count, int threads, const std::function<void(int64_t)>& task)
      : task_(task), ranges_(static_cast<size_t>(std::min<int64_t>(count, threads))) {
    const auto size = static_cast<int64_t>(ranges_.size());
    for (int64_t i = 0; i < size; i++) ranges_[i].next = count * i / size, ranges_[i].end = count * (i + 1) / size;
  }

  // Runs tasks on this thread, which is the one of this number, until none is left. It must not throw: the other
  // threads still use the job, and OpenMP has no way to pass exceptions on.
  void run_tasks(int thread) noexcept {
    is_on_this_thread_ = true;
    try {
      for (size_t i = 0; i < ranges_.size(); i++) run_tasks_of(ranges_[(thread + i) % ranges_.size()]);
    } catch (...) {
      if (!has_failed_.exchange(true)) error_ = std::current_exception();
    }
    is_on_this_thread_ = false;
  }

  // Throws the first exception that a task threw; to be called when no thread runs tasks any more.
  void rethrow_error() const {
    if (error_) std::rethrow_exception(error_);
  }

  // Whether the calling thread runs a task of any job.
  static bool is_on_this_thread() { return is_on_this_thread_; }

 private:
  // On a cache line of its own, as each thread mostly writes to its own range alone.
  struct alignas(64) Range {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  // Tasks that have not begun when one has failed need not begin.
  void run_tasks_of(Range& range) {
    while (!has_failed_.load(std::memory_order_relaxed)) {
      const int64_t index = range.next.fetch_add(1, std::memory_order_relaxed);
      if (index >= range.end) return;
      task_(index);
    }
  }

  static inline thread_local bool is_on_this_thread_ = false;

  const std::function<void(int64_t)>& task_;
  std::vector<Range> ranges_;
  std::atomic<bool> has_failed_{false};
  std::exception_ptr error_ = nullptr;
};

}  // namespace sparsecore
