// The kernels of linear layers of blocks for processors with AMX, on Linux: no other system lets programs use it on the
// machines that are known to us.
#include <sys/syscall.h>
#include <unistd.h>

#include "linear/amx_tiles.hpp"
#include "linear/block_products.hpp"

namespace SPARSECORE_VARIANT {
namespace {

// Asks Linux (from 5.16 on) to keep the tiles of all threads of this process over switches to others.
bool request_permission() {
  constexpr long REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, and the number of the state in XCR0
  return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}

bool is_usable() {
  static const bool usable = request_permission() && multiply_correctly<AmxTiles>();
  return usable;
}

}  // namespace

extern const sparsecore::BlockTable block_table = {LANES, is_usable, block_forward<AmxTiles>,
                                                   block_gradients<AmxTiles>};

}  // namespace SPARSECORE_VARIANT
