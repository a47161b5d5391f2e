#include "runtime/openmp_team.hpp"

#ifndef _WIN32

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <fstream>
#include <iterator>
#include <mutex>
#include <sstream>
#include <string>

namespace sparsecore {
namespace {

// GOMP_parallel(), which GCC turns a parallel region into: it calls function(data) on each thread of the team, and
// returns when all calls have returned. LLVM's and Intel's runtimes have it as well.
using Parallel = void(void (*function)(void*), void* data, unsigned threads, unsigned flags);

// omp_get_thread_num(): the number of the calling thread in its team.
using ThreadNumber = int();

// Null where no OpenMP runtime is used. The second is set before the first.
std::atomic<Parallel*> parallel{nullptr};
std::atomic<ThreadNumber*> thread_number{nullptr};
std::atomic<bool> has_forked{false};

// Linux marks processes that were forked and have executed no program since, also where that was before this module was
// loaded. Other systems do not tell.
bool is_marked_as_forked() {
  constexpr unsigned long FORKED_WITHOUT_EXECUTION = 0x40;
  std::ifstream file("/proc/self/stat");
  const std::string status{std::istreambuf_iterator<char>(file), {}};
  const size_t name_end = status.rfind(')');  // the program's name may have any characters, these and spaces too
  if (name_end == std::string::npos) return false;
  std::istringstream fields(status.substr(name_end + 1));
  std::string ignored;
  for (int field = 0; field < 6; field++) fields >> ignored;
  unsigned long flags = 0;
  fields >> flags;
  return flags & FORKED_WITHOUT_EXECUTION;
}

// Whether OpenMP's threads may be those of the parent alone. From the first call on, forks are noticed on all systems.
bool is_forked() {
  static std::once_flag once;
  std::call_once(once, [] {
    has_forked = is_marked_as_forked();
    pthread_atfork(nullptr, nullptr, [] { has_forked = true, parallel = nullptr; });
  });
  return has_forked;
}

// The function that a loaded library itself calls by this name; null if it is linked with none.
void* function_of(void* library, const char* name) {
  void* own = dlsym(library, name);  // searches the libraries that it was linked with as well
#ifdef __linux__
  // a runtime that was preloaded comes before the library's own
  void* global = dlsym(RTLD_DEFAULT, name);
  if (own && global) own = global;
#endif
  return own;
}

}  // namespace

bool use_openmp_of(const char* library) {
  use_no_openmp();
  if (is_forked()) return false;
  // it is never closed, so that its runtime stays
  void* loaded = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
  if (!loaded) return false;
  void* found = function_of(loaded, "GOMP_parallel");
  void* number = function_of(loaded, "omp_get_thread_num");
  if (!found || !number) return false;
  thread_number = reinterpret_cast<ThreadNumber*>(number);
  parallel = reinterpret_cast<Parallel*>(found);
  return true;
}

void use_no_openmp() { parallel = nullptr; }

bool uses_openmp() { return parallel.load() != nullptr; }

bool run_on_openmp_team(Job& job, int threads) {
  Parallel* run = parallel.load(std::memory_order_acquire);
  if (!run) return false;
  // The team is not made smaller where there are fewer tasks: the runtime would end the other threads, and the next
  // parallel region of the library would have to start them again.
  const auto run_tasks = [](void* given) { static_cast<Job*>(given)->run_tasks(thread_number.load()()); };
  run(run_tasks, &job, static_cast<unsigned>(threads), 0);
  return true;
}

}  // namespace sparsecore

#else  // no library there has an OpenMP runtime with GCC's interface

namespace sparsecore {

bool use_openmp_of(const char*) { return false; }

void use_no_openmp() {}

bool uses_openmp() { return false; }

bool run_on_openmp_team(Job&, int) { return false; }

}  // namespace sparsecore

#endif
