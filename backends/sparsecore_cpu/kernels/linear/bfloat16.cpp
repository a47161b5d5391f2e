// The kernels of linear layers that multiply bfloat16 numbers, for processors with AVX-512 that have instructions for
// it.
#include "linear/bfloat16.hpp"

namespace SPARSECORE_VARIANT {

extern const sparsecore::LinearTable linear_table = {"avx512", LANES, MOST_VECTORS, rounded_forward, rounded_gradients};

}  // namespace SPARSECORE_VARIANT
