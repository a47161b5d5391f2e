// Memory for as long as a task runs; a thread's next task uses it again.
#pragma once

#include <sys/mman.h>

#include <cstdlib>
#include <memory>
#include <new>

#include "pool.hpp"
#include "vector.hpp"

namespace SPARSECORE_VARIANT {

constexpr size_t LARGE_PAGE = 2 << 20;

struct Released {
  void operator()(float* memory) const { std::free(memory); }
};
using Aligned = std::unique_ptr<float[], Released>;

// Cache lines of floats, not initialized.
inline Aligned aligned(int64_t count) {
  const size_t wanted = static_cast<size_t>(count) * sizeof(float), page = wanted < LARGE_PAGE / 8 ? 64 : LARGE_PAGE;
  const size_t bytes = (wanted + page - 1) / page * page;
  void* memory = std::aligned_alloc(page, bytes ? bytes : page);
  if (!memory) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (page == LARGE_PAGE) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  return Aligned(static_cast<float*>(memory));
}

class Scratch {
 public:
  float* of(int64_t count) {
    sparsecore::expect_scratch();
    if (room_ < count) memory_ = aligned(count), room_ = count;
    return memory_.get();
  }

 private:
  Aligned memory_;
  int64_t room_ = 0;
};

}  // namespace SPARSECORE_VARIANT
