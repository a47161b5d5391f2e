// What the checks of all passes over activations share.
#pragma once

#include <vector>

#include "bindings/bindings.hpp"
#include "pointwise/table.hpp"

namespace sparsecore {

// The kernels of an instruction set that work entry by entry, for the type of the buffer's values.
inline const PointwiseTable& pointwise_table_for(const Bindings& kernels, const Activation& x) {
  const PointwiseTables tables = find_pointwise_kernels(kernels.name());
  return x.value_bytes() == tables.float32->value_bytes ? *tables.float32 : *tables.bfloat16;
}

inline void require_lanes(const Bindings& kernels, const Activation& x) {
  require(x.lanes() == kernels.lanes(), "the buffer has another number of lanes than the kernels");
}

// Each entry of `out` is computed from the same one of `x`.
inline void require_pixelwise(const Bindings& kernels, const Activation& x, const Activation& out) {
  require_lanes(kernels, out), require_same_layout(x, out), require_disjoint_or_same(out, x);
}

// The address of what is added to the output, or null.
inline const void* start_of(const Bindings& kernels, const Activation* add, const Activation& out) {
  if (!add) return nullptr;
  require_pixelwise(kernels, *add, out);
  return add->view.data;
}

// A vector by channel that the output does not overlap.
inline ReadonlyFloats factor_by_channel(const char* name, nb::handle given, const Activation& out) {
  ReadonlyFloats vector = by_channel(name, given, out.extent);
  require_disjoint(out.memory(), {vector.memory()});
  return vector;
}

inline void require_sums(const Sums& sums, int64_t channels) {
  require(sums.length(0) == channels && sums.length(1) == 2, "sums are (channels, 2)");
}

// Adds partial sums of (parts, channels, 2) to `sums`, part by part.
inline void add_up(const std::vector<double>& partial, const Sums& sums) {
  const size_t count = static_cast<size_t>(2 * sums.length(0));
  for (size_t part = 0; part < partial.size() / count; part++)
    for (size_t i = 0; i < count; i++) sums.data()[i] += partial[part * count + i];
}

}  // namespace sparsecore
