// Threads that wait for work; which thread does which task never changes a result.
#pragma once

#include <cstdint>
#include <functional>

namespace sparsecore {

// Call task(0) ... task(count - 1), on at most `threads` threads, the calling one among them; return when all are done.
void in_parallel(int64_t count, int threads, const std::function<void(int64_t)>& task);

}  // namespace sparsecore
