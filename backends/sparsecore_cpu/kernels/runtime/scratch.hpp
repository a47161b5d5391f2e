// Scratch memory for a task, which the next task of the same thread uses again.
#pragma once

#ifndef _WIN32
#include <sys/mman.h>
#endif

#include <memory>
#include <new>

#include "runtime/thread_pool.hpp"
#include "simd/vector.hpp"

namespace SPARSECORE_VARIANT {

constexpr size_t CACHE_LINE = 64, LARGE_PAGE = 2 << 20;

struct DeleteAligned {
  std::align_val_t alignment;
  void operator()(float* memory) const { ::operator delete(memory, alignment); }
};
using AlignedFloats = std::unique_ptr<float[], DeleteAligned>;

// Uninitialized memory from the start of a cache line on; in large pages where that is worth it.
inline AlignedFloats allocate_aligned(int64_t count) {
  const size_t wanted = static_cast<size_t>(count) * sizeof(float);
  const size_t alignment = wanted < LARGE_PAGE / 8 ? CACHE_LINE : LARGE_PAGE;
  const size_t bytes = (wanted + alignment - 1) / alignment * alignment;
  const std::align_val_t aligned{alignment};
  void* memory = ::operator new(bytes, aligned);
#ifdef MADV_HUGEPAGE
  if (alignment == LARGE_PAGE) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  return AlignedFloats(static_cast<float*>(memory), {aligned});
}

class Scratch {
 public:
  // Memory for so many floats, valid until the next request. It has arbitrary content.
  float* request(int64_t count) {
    sparsecore::fail_scratch_request_if_due();
    if (capacity_ < count) memory_ = allocate_aligned(count), capacity_ = count;
    return memory_.get();
  }

 private:
  AlignedFloats memory_{nullptr, {}};
  int64_t capacity_ = 0;
};

}  // namespace SPARSECORE_VARIANT
