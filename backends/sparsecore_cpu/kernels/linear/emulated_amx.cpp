// The kernels of linear layers of blocks with matrix tiles that are emulated, for tests.
#include "linear/block_products.hpp"
#include "linear/emulated_tiles.hpp"

namespace SPARSECORE_VARIANT {

static bool is_usable() {
  static const bool usable = multiply_correctly<EmulatedTiles>();
  return usable;
}

extern const sparsecore::BlockTable emulated_block_table = {LANES, is_usable, block_forward<EmulatedTiles>,
                                                            block_gradients<EmulatedTiles>};

}  // namespace SPARSECORE_VARIANT
