#include "pool.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace sparsecore {
namespace {

// The kernels of one step follow each other at once: who waits looks a while before it sleeps, and a sleeper costs
// other programs, torch's and BLAS's threads among them, nothing.
constexpr auto PATIENCE = std::chrono::microseconds(50);

struct Work {
  const std::function<void(int64_t)>* task;
  int64_t count;
  std::atomic<int64_t> next{0};
  std::atomic<int> helpers_left{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error = nullptr;  // the first one that a task threw; read when all threads are done
};

// Never throws: a thread that went away would leave the others with a `work` that is no more.
void work_off(Work& work) noexcept {
  try {
    for (int64_t index; (index = work.next.fetch_add(1, std::memory_order_relaxed)) < work.count;) (*work.task)(index);
  } catch (...) {
    if (!work.failed.exchange(true)) work.error = std::current_exception();
    work.next.store(work.count, std::memory_order_relaxed);  // the tasks that are left need not be begun
  }
}

class Pool {
 public:
  void run(Work& work, int helpers) {
    std::lock_guard<std::mutex> one_caller(callers_);
    helpers = threads(helpers);
    work.helpers_left = helpers;
    for (int helper = 0; helper < helpers; helper++) mailboxes_[helper]->put(&work);
    work_off(work);
    for (int helper = 0; helper < helpers; helper++)
      if (mailboxes_[helper]->withdraw()) work.helpers_left.fetch_sub(1, std::memory_order_relaxed);
    while (work.helpers_left.load(std::memory_order_acquire) > 0) std::this_thread::yield();
  }

 private:
  class Mailbox {
   public:
    void put(Work* work) {
      {
        std::lock_guard<std::mutex> lock(mutex_);
        work_.store(work, std::memory_order_release);
      }
      arrived_.notify_one();
    }

    // Whether the work was still there: its thread is not awake yet, and all is done without it.
    bool withdraw() { return work_.exchange(nullptr) != nullptr; }

    Work* take() {
      const auto end = std::chrono::steady_clock::now() + PATIENCE;
      while (!work_.load(std::memory_order_acquire) && std::chrono::steady_clock::now() < end) std::this_thread::yield();
      if (Work* work = work_.exchange(nullptr)) return work;
      std::unique_lock<std::mutex> lock(mutex_);
      Work* work = nullptr;
      arrived_.wait(lock, [&] { return (work = work_.exchange(nullptr)) != nullptr; });
      return work;
    }

   private:
    std::mutex mutex_;
    std::condition_variable arrived_;
    std::atomic<Work*> work_{nullptr};
  };

  // How many there are of the threads that are wanted; fewer where the system gives no more.
  int threads(int wanted) {
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
        Work* work = mailbox->take();
        work_off(*work);
        work->helpers_left.fetch_sub(1, std::memory_order_release);
      }
    }).detach();
  }

  std::mutex callers_;
  std::vector<std::unique_ptr<Mailbox>> mailboxes_;
};

Pool* pool = nullptr;
std::once_flag once;

// A forked child has none of its parent's threads. It gets a pool of its own; the parent's is left where it lies.
void start_anew() { pool = new Pool; }

Pool& the_pool() {
  std::call_once(once, [] {
    start_anew();
    pthread_atfork(nullptr, nullptr, start_anew);
  });
  return *pool;
}

}  // namespace

std::atomic<int64_t> scratch_left{-1};

void in_parallel(int64_t count, int threads, const std::function<void(int64_t)>& task) {
  const int helpers = static_cast<int>(count < threads ? count : threads) - 1;
  if (helpers <= 0) {
    for (int64_t index = 0; index < count; index++) task(index);
    return;
  }
  Work work;
  work.task = &task;
  work.count = count;
  the_pool().run(work, helpers);
  if (work.error) std::rethrow_exception(work.error);
}

}  // namespace sparsecore
