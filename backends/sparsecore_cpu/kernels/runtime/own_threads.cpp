#include "runtime/own_threads.hpp"

#include "runtime/core_choice.hpp"

#ifndef _WIN32
#include <pthread.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace sparsecore {
namespace {

// The kernels of one training step follow each other closely, so an idle thread polls for a short while before it goes
// to sleep. A sleeping thread takes nothing from other programs, such as the threads of torch and of BLAS.
constexpr auto POLLING_TIME = std::chrono::microseconds(50);

// During a series of jobs it polls between them, unless one is long in coming.
constexpr auto POLLING_TIME_IN_SERIES = std::chrono::milliseconds(2);

// How many series are under way.
std::atomic<int> series_count{0};

class ThreadPool {
 public:
  void run(Job& job, int threads) {
    std::lock_guard<std::mutex> one_caller_at_a_time(callers_);
    const int helpers = start_threads(threads - 1);
    Assignment assignment{&job, {helpers}};
    for (int helper = 0; helper < helpers; helper++) mailboxes_[helper]->put(&assignment);
    job.run_tasks(0);
    for (int helper = 0; helper < helpers; helper++)
      if (mailboxes_[helper]->withdraw()) assignment.running_helpers.fetch_sub(1, std::memory_order_relaxed);
    while (assignment.running_helpers.load(std::memory_order_acquire) > 0) std::this_thread::yield();
  }

  // Has the threads that such jobs run on awake soon.
  void wake(int threads) {
    std::lock_guard<std::mutex> one_caller_at_a_time(callers_);
    const int helpers = start_threads(threads - 1);
    for (int helper = 0; helper < helpers; helper++) mailboxes_[helper]->wake_on_another_core();
  }

 private:
  // A job and how many helper threads have not finished with it. The calling thread waits for them, as it owns both.
  struct Assignment {
    Job* job;
    std::atomic<int> running_helpers;
  };

  // Hands assignments to one helper thread.
  class Mailbox {
   public:
    void put(Assignment* assignment) {
      assignment_.store(assignment, std::memory_order_release);
      wake();
    }

    // Wakes the helper if it sleeps.
    void wake() {
      {
        std::lock_guard<std::mutex> lock(mutex_);
        is_called_ = true;
      }
      called_.notify_one();
    }

    void wake_on_another_core() {
      const OtherCores other_cores(thread_);
      wake();
    }

    // Takes the assignment back if the helper has not taken it yet, because it is still waking up; returns whether it
    // was there.
    bool withdraw() { return assignment_.exchange(nullptr) != nullptr; }

    // A helper that was woken for an assignment that is gone polls again: the next one follows soon.
    Assignment* take() {
      thread_ = this_thread_number();
      for (;;) {
        if (Assignment* assignment = poll()) return assignment;
        std::unique_lock<std::mutex> lock(mutex_);
        called_.wait(lock, [this] { return is_called_; });
        is_called_ = false;
      }
    }

   private:
    // Null where none arrives for a while.
    Assignment* poll() {
      const auto start = std::chrono::steady_clock::now();
      while (!assignment_.load(std::memory_order_acquire)) {
        const auto passed = std::chrono::steady_clock::now() - start;
        if (passed > POLLING_TIME && (!series_count.load() || passed > POLLING_TIME_IN_SERIES)) break;
        std::this_thread::yield();
      }
      return assignment_.exchange(nullptr);
    }

    std::mutex mutex_;
    std::condition_variable called_;
    bool is_called_ = false;
    std::atomic<Assignment*> assignment_{nullptr};
    std::atomic<ThreadNumber> thread_{0};
  };

  // Starts threads until there are as many as wanted, or until the system refuses; returns how many may be used.
  int start_threads(int wanted) {
    while (static_cast<int>(mailboxes_.size()) < wanted) {
      mailboxes_.push_back(std::make_unique<Mailbox>());
      try {
        start_thread(static_cast<int>(mailboxes_.size()), mailboxes_.back().get());
      } catch (...) {
        mailboxes_.pop_back();
        break;
      }
    }
    return std::min(wanted, static_cast<int>(mailboxes_.size()));
  }

  static void start_thread(int number, Mailbox* mailbox) {
    std::thread([number, mailbox] {
      for (;;) {
        Assignment* assignment = mailbox->take();
        assignment->job->run_tasks(number);
        assignment->running_helpers.fetch_sub(1, std::memory_order_release);
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
void replace_pool() { pool = new ThreadPool, series_count = 0; }

ThreadPool& shared_pool() {
  std::call_once(once, [] {
    replace_pool();
#ifndef _WIN32  // which has no fork()
    pthread_atfork(nullptr, nullptr, replace_pool);
#endif
  });
  return *pool;
}

}  // namespace

void run_on_own_threads(Job& job, int threads) { shared_pool().run(job, threads); }

void wake_own_threads(int threads) { shared_pool().wake(threads); }

void count_series(int more) { series_count += more; }

}  // namespace sparsecore
