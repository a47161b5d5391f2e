#include "runtime/thread_pool.hpp"

#include <algorithm>

#include "runtime/job.hpp"
#include "runtime/openmp_team.hpp"
#include "runtime/own_threads.hpp"

namespace sparsecore {

std::atomic<int64_t> scratch_requests_until_failure{-1};

void parallel_for(int64_t count, int threads, const std::function<void(int64_t)>& task) {
  // tasks that start tasks run these alone, as all threads are busy
  if (count <= 1 || threads <= 1 || Job::is_on_this_thread()) {
    for (int64_t index = 0; index < count; index++) task(index);
    return;
  }
  Job job(count, threads, task);
  if (!run_on_openmp_team(job, threads)) run_on_own_threads(job, static_cast<int>(std::min<int64_t>(count, threads)));
  job.rethrow_error();
}

}  // namespace sparsecore
