// Checks single arguments from Python: integers, arrays, and the memory that arrays occupy. An argument that does not
// fit is a ValueError that names it.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace sparsecore {

namespace nb = nanobind;

inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

// A Python integer. One that does not fit into 64 bits is clamped to the nearest that does: every integer is compared
// with bounds before it is used, and both ends of the range are outside of all of them.
struct Integer {
  int64_t value = 0;
  operator int64_t() const { return value; }
};

// Sums and products that are refused where they do not fit into 64 bits.
inline int64_t checked_sum(int64_t one, int64_t other) {
  int64_t sum;
  require(!__builtin_add_overflow(one, other, &sum), "a number is too large");
  return sum;
}

inline int64_t checked_product(int64_t one, int64_t other) {
  int64_t product;
  require(!__builtin_mul_overflow(one, other, &product), "a number is too large");
  return product;
}

// More threads than any machine has are a mistake, and all of them would be started.
constexpr int64_t MOST_THREADS = 1024;

inline int thread_count(Integer threads) {
  if (threads < 1 || threads > MOST_THREADS)
    throw std::invalid_argument("threads must be from 1 to " + std::to_string(MOST_THREADS) + "; given " +
                                std::to_string(threads.value));
  return static_cast<int>(threads);
}

// The bytes [first, last).
struct MemoryRange {
  const char *first, *last;

  bool overlaps(const MemoryRange& other) const { return first < other.last && other.first < last; }
  bool equals(const MemoryRange& other) const { return first == other.first && last == other.last; }
};

inline MemoryRange memory_range(const void* data, int64_t bytes) {
  const char* first = static_cast<const char*>(data);
  return {first, first + bytes};
}

// Memory that a call writes must not overlap anything else that the call reads or writes.
inline void require_disjoint(const MemoryRange& written, std::initializer_list<MemoryRange> others) {
  for (const MemoryRange& other : others)
    require(!written.overlaps(other), "an output shares memory with another argument of the same call");
}

template <class Scalar>
struct DtypeName;
template <>
struct DtypeName<float> {
  static constexpr const char* value = "float32";
};
template <>
struct DtypeName<double> {
  static constexpr const char* value = "float64";
};
template <>
struct DtypeName<int32_t> {
  static constexpr const char* value = "int32";
};

inline std::string dtype_name(nb::dlpack::dtype type) {
  using Code = nb::dlpack::dtype_code;
  const auto code = static_cast<Code>(type.code);
  if (code == Code::Bool) return "bool";
  const char* kind = code == Code::Float     ? "float"
                     : code == Code::Int     ? "int"
                     : code == Code::UInt    ? "uint"
                     : code == Code::Complex ? "complex"
                                             : "other";
  return kind + std::to_string(type.bits);
}

// An array of any dtype and shape; writable unless `Scalar` is const.
template <class Scalar>
using AnyArray =
    std::conditional_t<std::is_const_v<Scalar>, nb::ndarray<nb::ro, nb::device::cpu>, nb::ndarray<nb::device::cpu>>;

template <class Scalar>
AnyArray<Scalar> any_array(const char* name, nb::handle object) {
  AnyArray<Scalar> array;
  // Arrays are never converted: the kernels would write to, or later read from, a copy that the caller does not have.
  if (nb::try_cast(object, array, false)) return array;
  nb::ndarray<nb::ro, nb::device::cpu> readonly;
  const bool is_array = nb::try_cast(object, readonly, false);
  throw std::invalid_argument(std::string(name) +
                              (is_array ? " is written to, but is a read-only array"
                                        : " must be an array of numbers in the processor's own byte order"));
}

// Whether the array is contiguous in C order.
template <class AnArray>
bool is_contiguous(const AnArray& array) {
  for (size_t axis = 0; axis < array.ndim(); axis++)
    if (!array.shape(axis)) return true;
  int64_t next = 1;
  for (int axis = static_cast<int>(array.ndim()) - 1; axis >= 0; axis--) {
    const int64_t length = static_cast<int64_t>(array.shape(axis));
    if (length != 1 && array.stride(axis) != next) return false;
    next = checked_product(next, length);
  }
  return true;
}

// An array of one dtype and number of axes; writable unless `Scalar` is const.
template <class Scalar, int AXES, bool CONTIGUOUS = true>
class Array {
  using Plain = std::remove_const_t<Scalar>;

 public:
  Array(const char* name, nb::handle object) : array_(any_array<Scalar>(name, object)) {
    const auto refuse = [name](const std::string& reason) { throw std::invalid_argument(name + reason); };
    if (array_.dtype() != nb::dtype<Plain>())
      refuse(std::string(" must be an array of ") + DtypeName<Plain>::value + "; given one of " +
             dtype_name(array_.dtype()));
    if (array_.ndim() != AXES)
      refuse(" must have " + std::to_string(AXES) + (AXES == 1 ? " axis" : " axes") + "; given " +
             std::to_string(array_.ndim()));
    if (reinterpret_cast<uintptr_t>(data()) % alignof(Plain))
      refuse(" does not start at a multiple of its numbers' size");
    if (CONTIGUOUS && !is_contiguous(array_)) refuse(" must be contiguous, in C order");
  }

  Scalar* data() const { return static_cast<Scalar*>(const_cast<void*>(static_cast<const void*>(array_.data()))); }
  int64_t length(int axis = 0) const { return static_cast<int64_t>(array_.shape(axis)); }
  int64_t stride(int axis) const { return array_.stride(axis); }

  // The memory from the first to the last entry, whatever the strides.
  MemoryRange memory() const {
    int64_t before = 0, after = 1;
    for (int axis = 0; axis < AXES; axis++) {
      if (!length(axis)) return {nullptr, nullptr};
      const int64_t reach = checked_product(length(axis) - 1, stride(axis));
      (reach < 0 ? before : after) += reach;
    }
    return {reinterpret_cast<const char*>(data() + before), reinterpret_cast<const char*>(data() + after)};
  }

 private:
  AnyArray<Scalar> array_;
};

}  // namespace sparsecore

namespace nanobind::detail {

template <>
struct type_caster<sparsecore::Integer> {
  NB_TYPE_CASTER(sparsecore::Integer, const_name("int"))

  bool from_python(handle source, uint32_t, cleanup_list*) noexcept {
    if (!PyIndex_Check(source.ptr())) return false;
    const object number = steal(PyNumber_Index(source.ptr()));
    if (!number.is_valid()) return PyErr_Clear(), false;
    int overflow = 0;
    value.value = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
    if (overflow)
      value.value = overflow > 0 ? std::numeric_limits<int64_t>::max() : std::numeric_limits<int64_t>::min();
    return true;
  }
};

}  // namespace nanobind::detail
