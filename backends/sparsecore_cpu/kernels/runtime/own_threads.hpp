// A pool of threads of our own, for processes without another library's threads, and for forked ones.
#pragma once

#include "runtime/job.hpp"

namespace sparsecore {

// Runs all tasks of the job on at most `threads` threads, the calling one among them. Several callers take turns.
void run_on_own_threads(Job& job, int threads);

// Has the threads that such jobs run on awake soon.
void wake_own_threads(int threads);

// Changes the number of series of jobs that are under way; while there is one, threads that wait for a job stay awake.
void count_series(int more);

}  // namespace sparsecore
