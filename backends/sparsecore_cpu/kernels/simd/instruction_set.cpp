// All kernels for one instruction set. CMakeLists.txt compiles this once for each of them.
#include "conv/backward.hpp"
#include "conv/forward.hpp"
#include "conv/rows.hpp"
#include "conv/weight_gradient.hpp"
#include "simd/elementwise.hpp"
#include "simd/packing.hpp"

#define QUOTE(name) #name
#define NAME_OF(name) QUOTE(name)

namespace SPARSECORE_VARIANT {

extern const sparsecore::KernelTable table = {
    NAME_OF(SPARSECORE_VARIANT),
    LANES,
    sizeof(Stored),
    part_count,
    convolve,
    convolve_masked,
    weight_gradient,
    backward,
    affine,
    affine_relu,
    combine,
    relu_backward,
    moments,
    gradient_sums,
    pool,
    pool_backward,
    pack,
    unpack,
    convolve_rows,
};

}  // namespace SPARSECORE_VARIANT
