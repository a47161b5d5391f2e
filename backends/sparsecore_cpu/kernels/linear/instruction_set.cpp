// The kernels of linear layers for one instruction set. CMakeLists.txt compiles this once for each of them.
#include "linear/forward.hpp"
#include "linear/gradients.hpp"

#define QUOTE(name) #name
#define NAME_OF(name) QUOTE(name)

namespace SPARSECORE_VARIANT {

extern const sparsecore::LinearTable linear_table = {
    NAME_OF(SPARSECORE_VARIANT), LANES, MOST_VECTORS, forward, gradients,
};

}  // namespace SPARSECORE_VARIANT
