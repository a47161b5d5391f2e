// The kernels of attention for one instruction set. CMakeLists.txt compiles this once for each of them.
#include "attention/attention.hpp"
#include "attention/differentiable.hpp"

#define QUOTE(name) #name
#define NAME_OF(name) QUOTE(name)

namespace SPARSECORE_VARIANT {

extern const sparsecore::AttentionTable attention_table = {NAME_OF(SPARSECORE_VARIANT), attend, attend_in_training,
                                                           attention_gradients};

}  // namespace SPARSECORE_VARIANT
