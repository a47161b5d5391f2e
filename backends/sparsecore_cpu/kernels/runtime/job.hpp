// The tasks of one parallel loop, which its threads take one after the other.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>

namespace sparsecore {

class Job {
 public:
  // The task must outlive the job.
  Job(int64_t count, const std::function<void(int64_t)>& task) : count_(count), task_(task) {}

  // Runs tasks on this thread until none is left. It must not throw: the other threads still use the job, and OpenMP
  // has no way to pass exceptions on.
  void run_tasks() noexcept {
    is_on_this_thread_ = true;
    try {
      for (int64_t index; (index = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) task_(index);
    } catch (...) {
      if (!failed_.exchange(true)) error_ = std::current_exception();
      next_.store(count_, std::memory_order_relaxed);  // the remaining tasks need not begin
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
  static inline thread_local bool is_on_this_thread_ = false;

  const int64_t count_;
  const std::function<void(int64_t)>& task_;
  std::atomic<int64_t> next_{0};
  std::atomic<bool> failed_{false};
  std::exception_ptr error_ = nullptr;
};

}  // namespace sparsecore
