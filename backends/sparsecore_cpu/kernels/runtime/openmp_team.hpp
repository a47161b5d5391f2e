// The threads of an OpenMP runtime that another library in this process computes with.
//
// Threads of two kinds in one process hinder each other: after a parallel loop, OpenMP's keep spinning for a while, and
// ours wait for a core. This module has no OpenMP runtime of its own, which would be one more.
#pragma once

#include "runtime/job.hpp"

namespace sparsecore {

// From now on, runs all jobs on the OpenMP runtime of a library that is loaded.
//
// It returns whether this succeeded. It fails where the library at this path is not loaded, computes with no OpenMP
// runtime, or with one that lacks GCC's interface, and in a forked process, where the runtime would wait for threads
// that only the parent has.
bool use_openmp_of(const char* library);

// From now on, and until use_openmp_of() is called again, runs no job on OpenMP.
void use_no_openmp();

// Whether jobs run on OpenMP.
bool uses_openmp();

// Runs all tasks of the job on a team of `threads` threads, the calling one among them, and returns whether there is an
// OpenMP runtime to use. Each caller has a team of its own.
bool run_on_openmp_team(Job& job, int threads);

}  // namespace sparsecore
