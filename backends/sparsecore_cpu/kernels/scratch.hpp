// Memory for as long as a task runs; a thread's next task uses it again.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>

#include "vector.hpp"

namespace SPARSECORE_VARIANT {

struct Released {
  void operator()(float* memory) const { std::free(memory); }
};
using Aligned = std::unique_ptr<float[], Released>;

// Cache lines of floats, not initialized.
inline Aligned aligned(int64_t count) {
  const size_t bytes = (static_cast<size_t>(count) * sizeof(float) + 63) / 64 * 64;
  void* memory = std::aligned_alloc(64, bytes ? bytes : 64);
  if (!memory) throw std::bad_alloc();
  return Aligned(static_cast<float*>(memory));
}

class Scratch {
 public:
  float* of(int64_t count) {
    if (room_ < count) memory_ = aligned(count), room_ = count;
    return memory_.get();
  }

 private:
  Aligned memory_;
  int64_t room_ = 0;
};

}  // namespace SPARSECORE_VARIANT
