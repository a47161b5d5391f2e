// The kernels that work entry by entry, for one instruction set. CMakeLists.txt compiles this once for each of them.
#include "pointwise/normalization.hpp"
#include "pointwise/passes.hpp"
#include "pointwise/products.hpp"

#define QUOTE(name) #name
#define NAME_OF(name) QUOTE(name)

namespace SPARSECORE_VARIANT {

extern const sparsecore::PointwiseTable pointwise_table = {
    NAME_OF(SPARSECORE_VARIANT),
    sizeof(Stored),
    part_count,
    {
        pointwise_kernels<Relu6>(),
        pointwise_kernels<LeakyRelu>(),
        pointwise_kernels<Silu>(),
        pointwise_kernels<Gelu>(),
        pointwise_kernels<GeluTanh>(),
        pointwise_kernels<HardSwish>(),
        pointwise_kernels<HardSigmoid>(),
        pointwise_kernels<Sigmoid>(),
        pointwise_kernels<Tanh>(),
        pointwise_kernels<Elu>(),
        pointwise_kernels<Softplus>(),
        pointwise_kernels<Mish>(),
    },
    combine_pairs<Product, Stored>,
    combine_pairs<Product, float>,
    combine_pairs<Sum, Stored>,
    combine_pairs<Sum, float>,
    sum_pixels,
    sum_channels,
    dropout,
    {normalize_pixels, normalize_pixels_backward, tile_part_count},
    {normalize_images, normalize_images_backward, block_count},
};

}  // namespace SPARSECORE_VARIANT
