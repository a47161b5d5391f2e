// All kernels for one instruction set; compiled once for each, see CMakeLists.txt.
#include "backward.hpp"
#include "elementwise.hpp"
#include "pack.hpp"
#include "rows.hpp"

#define NAME_OF(name) #name
#define NAME(name) NAME_OF(name)

namespace SPARSECORE_VARIANT {

extern const Kernels table = {
    NAME(SPARSECORE_VARIANT),
    LANES,
    sizeof(Stored),
    parts,
    convolve,
    convolve_masked,
    weight_gradient,
    backward,
    affine,
    affine_relu,
    combine,
    masked,
    moments,
    products,
    pool,
    spread,
    pack,
    unpack,
    convolve_rows,
};

}  // namespace SPARSECORE_VARIANT
