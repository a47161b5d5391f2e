#include "runtime/thread_pool.hpp"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace sparsecore {
namespace {

// The kernels of one training step follow each other closely, so an idle thread polls for a short while before it goes
// to sleep. A sleeping thread takes nothing from other programs, such as the threads of torch and of BLAS.
constexpr auto POLLING_TIME = std::chrono::microseconds(50);

struct Job {
  const std::function<void(int64_t)>* task;
  int64_t count;
  std::atomic<int64_t> next{0};
  std::atomic<int> running_helpers{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error = nullptr;  // the first one that a task threw; read when all helpers are done
};

// Runs tasks until none is left. It must not throw: the other threads still use the job, which the caller owns.
void run_tasks(Job& job) noexcept {
  try {
    for (int64_t index; (index = job.next.fetch_add(1, std::memory_order_relaxed)) < job.count;) (*job.task)(index);
  } catch (...) {
    if (!job.failed.exchange(true)) job.error = std::current_exception();
    job.next.store(job.count, std::memory_order_relaxed);  // the remaining tasks need not begin
  }
}

class ThreadPool {
 public:
  void run(Job& job, int helpers) {
    std::lock_guard<std::mutex> one_caller_at_a_time(callers_);
    helpers = start_threads(helpers);
    job.running_helpers = helpers;
    for (int helper = 0; helper < helpers; helper++) mailboxes_[helper]->put(&job);
    run_tasks(job);
    for (int helper = 0; helper < helpers; helper++)
      if (mailboxes_[helper]->withdraw()) job.running_helpers.fetch_sub(1, std::memory_order_relaxed);
    while (job.running_helpers.load(std::memory_order_acquire) > 0) std::this_thread::yield();
  }

 private:
  // Hands jobs to one helper thread.
  class Mailbox {
   public:
    void put(Job* job) {
      {
        std::lock_guard<std::mutex> lock(mutex_);
        job_.store(job, std::memory_order_release);
      }
      arrived_.notify_one();
    }

    // Takes the job back if the helper has not taken it yet, because it is still waking up; returns whether it was
    // there.
    bool withdraw() { return job_.exchange(nullptr) != nullptr; }

    Job* take() {
      const auto end = std::chrono::steady_clock::now() + POLLING_TIME;
      while (!job_.load(std::memory_order_acquire) && std::chrono::steady_clock::now() < end) std::this_thread::yield();
      if (Job* job = job_.exchange(nullptr)) return job;
      std::unique_lock<std::mutex> lock(mutex_);
      Job* job = nullptr;
      arrived_.wait(lock, [&] { return (job = job_.exchange(nullptr)) != nullptr; });
      return job;
    }

   private:
    std::mutex mutex_;
    std::condition_variable arrived_;
    std::atomic<Job*> job_{nullptr};
  };

  // Starts threads until there are as many as wanted, or until the system refuses; returns how many may be used.
  int start_threads(int wanted) {
    while (static_cast<int>(mailboxes_.size()) < wanted) {
      mailboxes_.push_back(std::make_unique<Mailbox>());
      try {
        start_thread(mailboxes_.back().get());
      } catch (...) {
        mailboxes_.pop_back();
        break;
      }
    }
    return std::min(wanted, static_cast<int>(mailboxes_.size()));
  }

  static void start_thread(Mailbox* mailbox) {
    std::thread([mailbox] {
      for (;;) {
        Job* job = mailbox->take();
        run_tasks(*job);
        job->running_helpers.fetch_sub(1, std::memory_order_release);
      }
    }).detach();
  }

  std::mutex callers_;
  std::vector<std::unique_ptr<Mailbox>> mailboxes_;
};

ThreadPool* pool = nullptr;
std::once_flag once;

// A forked child has none of its parent's threads, so it needs a pool of its own. The parent's is leaked: its mutexes
// may be locked by threads that do not exist here.
void replace_pool() { pool = new ThreadPool; }

ThreadPool& shared_pool() {
  std::call_once(once, [] {
    replace_pool();
    pthread_atfork(nullptr, nullptr, replace_pool);
  });
  return *pool;
}

}  // namespace

std::atomic<int64_t> scratch_requests_until_failure{-1};

void parallel_for(int64_t count, int threads, const std::function<void(int64_t)>& task) {
  const int helpers = static_cast<int>(count < threads ? count : threads) - 1;
  if (helpers <= 0) {
    for (int64_t index = 0; index < count; index++) task(index);
    return;
  }
  Job job;
  job.task = &task;
  job.count = count;
  shared_pool().run(job, helpers);
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace sparsecore
