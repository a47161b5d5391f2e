// The names of instruction sets.
#pragma once

namespace sparsecore {

// The name of the kernels that find_kernels(name) finds, which is another one than that of their table where they
// differ from these in linear layers alone. Null where there are none.
const char* found_name(const char* name);

}  // namespace sparsecore
