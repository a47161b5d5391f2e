// All kernels for pooling and changes of shape for one instruction set. CMakeLists.txt compiles this once for each.
#include "pooling/max_pool.hpp"
#include "pooling/shapes.hpp"
#include "pooling/window_sum.hpp"

#define QUOTE(name) #name
#define NAME_OF(name) QUOTE(name)

namespace SPARSECORE_VARIANT {

extern const sparsecore::PoolingTable pooling_table = {
    NAME_OF(SPARSECORE_VARIANT), window_sum, max_pool, max_pool_backward, gather_channels, flatten, unflatten,
};

}  // namespace SPARSECORE_VARIANT
