// The choice of another core for a thread that is about to be woken.
#pragma once

#ifdef __linux__
#include <sched.h>
#include <unistd.h>
#endif

namespace sparsecore {

#ifdef __linux__

using ThreadNumber = pid_t;

inline ThreadNumber this_thread_number() { return gettid(); }

// While it exists, the thread may run on all cores that it could run on but the calling thread's, if there is another
// one. Linux often wakes a thread on the core of the one that wakes it, where it waits until that one pauses: longer
// than a short job takes, while another core is idle.
class OtherCores {
 public:
  explicit OtherCores(ThreadNumber thread) : thread_(thread) {
    const int own = sched_getcpu();
    if (!thread || own < 0 || own >= CPU_SETSIZE || sched_getaffinity(thread, sizeof before_, &before_)) return;
    cpu_set_t others = before_;
    CPU_CLR(own, &others);
    is_changed_ = CPU_COUNT(&others) > 0 && !sched_setaffinity(thread, sizeof others, &others);
  }
  ~OtherCores() {
    if (is_changed_) sched_setaffinity(thread_, sizeof before_, &before_);
  }
  OtherCores(const OtherCores&) = delete;
  OtherCores& operator=(const OtherCores&) = delete;

 private:
  ThreadNumber thread_;
  cpu_set_t before_;
  bool is_changed_ = false;
};

#else  // other systems do not say where a thread is woken

using ThreadNumber = int;

inline ThreadNumber this_thread_number() { return 0; }

struct OtherCores {
  explicit OtherCores(ThreadNumber) {}
};

#endif

}  // namespace sparsecore
