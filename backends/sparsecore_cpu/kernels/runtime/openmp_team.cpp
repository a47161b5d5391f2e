#include "runtime/openmp_team.hpp"

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

// What GCC turns a parallel region into: it calls function(data) on each thread of the team, and returns when all calls
// have returned. LLVM's and Intel's runtimes have it as well.
using Parallel = void(void (*function)(void*), void* data, unsigned threads, unsigned flags);
constexpr const char* PARALLEL = "GOMP_parallel";

std::atomic<Parallel*> parallel{nullptr};
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

bool is_forked() {
  // without a lock around it, as a fork may come at any time
  static std::once_flag once;
  std::call_once(once, [] {
    has_forked = is_marked_as_forked();
    pthread_atfork(nullptr, nullptr, [] { has_forked = true, parallel = nullptr; });
  });
  return has_forked;
}

// The function that the library's own parallel regions call; null where it is not loaded or calls none.
Parallel* parallel_of(const char* library) {
  // it is never closed, so that the runtime stays
  void* loaded = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
  if (!loaded) return nullptr;
  void* own = dlsym(loaded, PARALLEL);  // searches the libraries that it was linked with as well
#ifdef __linux__
  // a runtime that was preloaded comes before the library's own
  void* global = dlsym(RTLD_DEFAULT, PARALLEL);
  if (own && global) own = global;
#endif
  return reinterpret_cast<Parallel*>(own);
}

}  // namespace

bool use_openmp_of(const char* library) {
  if (is_forked()) return false;
  Parallel* found = parallel_of(library);
  parallel = found;
  return found;
}

void use_no_openmp() { parallel = nullptr; }

bool run_on_openmp_team(Job& job, int threads) {
  Parallel* run = parallel.load(std::memory_order_relaxed);
  if (!run) return false;
  // The team is not made smaller where there are fewer tasks: the runtime would end the other threads, and the next
  // parallel region of the library would have to start them again.
  run([](void* given) { static_cast<Job*>(given)->run_tasks(); }, &job, static_cast<unsigned>(threads), 0);
  return true;
}

}  // namespace sparsecore
