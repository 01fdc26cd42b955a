// W environments side by side in one vector register, written with the compilers' vector extension.
//
// A recursion over time runs in each environment by itself, so the vector width changes speed and never a bit of the result.
// The type is explicit because GCC does not vectorise loops that mix byte flags with floats: 30 us against 145 us for
// GAE on [2048, 64] (Zen 4).
//
// `Lane` is one environment, for CUDA threads: the same steps, the same bits. `AffineLane` runs a step on a carry that is not known
// yet, an `Affine` function of it, which makes a recursion over time parallel.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/platform.hpp"

namespace pyrl::returns {

// `Count` < W leaves the upper lanes out of memory: rows of one to three environments.
template <class T, int W, int Count = W>
struct Vec {
  static constexpr int width = Count;
  using Scalar = T;
  using Integer = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
  typedef T Value __attribute__((vector_size(sizeof(T) * W)));
  typedef Integer Mask __attribute__((vector_size(sizeof(T) * W)));  // all bits or none, a lane
  typedef std::int8_t Bytes __attribute__((vector_size(W)));

  static PYRL_INLINE Value load(const T* from) {
    Value lanes{};
    if constexpr (Count == W) {
      std::memcpy(&lanes, from, sizeof lanes);
    } else {
      for (int lane = 0; lane < Count; ++lane) lanes[lane] = from[lane];
    }
    return lanes;
  }
  static PYRL_INLINE void store(T* to, Value lanes) {
    if constexpr (Count == W) {
      std::memcpy(to, &lanes, sizeof lanes);
    } else {
      for (int lane = 0; lane < Count; ++lane) to[lane] = lanes[lane];
    }
  }
  // Any byte but 0 is true, so that uint8 flags work as bool ones do.
  static PYRL_INLINE Bytes load_flags(const bool* from) {
    Bytes lanes{};
    if constexpr (Count == W) {
      std::memcpy(&lanes, from, sizeof lanes);
    } else {  // through one integer: a vector read back over narrower writes would stall
      static_assert(W == 4);
      std::uint32_t packed = 0;
      for (int lane = 0; lane < Count; ++lane) packed |= std::uint32_t{reinterpret_cast<const std::uint8_t*>(from)[lane]} << (8 * lane);
      std::memcpy(&lanes, &packed, sizeof lanes);
    }
    return lanes;
  }
  static PYRL_INLINE Mask mask(Bytes flags) { return __builtin_convertvector(flags != 0, Mask); }
};

// `where ? value : 0`. A choice, not a product: a NaN that is not chosen does not survive.
template <class Mask, class Value>
PYRL_HD PYRL_INLINE Value zero_where(Mask where, Value value) {
  return where ? Value{} : value;
}

template <class T>
struct Lane {
  static constexpr int width = 1;
  using Scalar = T;
  using Value = T;
  using Mask = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;  // all bits or none
  using Bytes = int;                                                           // of one flag

  static PYRL_HD PYRL_INLINE Value load(const T* from) { return *from; }
  static PYRL_HD PYRL_INLINE void store(T* to, Value value) { *to = value; }
  static PYRL_HD PYRL_INLINE Bytes load_flags(const bool* from) { return *reinterpret_cast<const std::uint8_t*>(from); }
  static PYRL_HD PYRL_INLINE Mask mask(Bytes flag) { return flag != 0 ? ~Mask{} : Mask{}; }
};

// constant + slope x of an unknown x. After a cut nothing depends on x, not even on a NaN there; a slope that is zero for other
// reasons (a factor, underflow) lets it through.
template <class T>
struct Affine {
  T constant, slope;
  bool depends;

  Affine() = default;  // `Affine{}` is zero
  PYRL_HD Affine(T known) : constant(known), slope{}, depends(false) {}
  PYRL_HD Affine(T constant_, T slope_, bool depends_) : constant(constant_), slope(slope_), depends(depends_) {}
  static PYRL_HD Affine unknown() { return {T{0}, T{1}, true}; }

  template <class X>  // a number, or an Affine of another unknown
  PYRL_HD X operator()(X x) const { return depends ? constant + slope * x : X(constant); }

  friend PYRL_HD Affine operator+(Affine a, T b) { return {a.constant + b, a.slope, a.depends}; }
  friend PYRL_HD Affine operator+(T a, Affine b) { return {a + b.constant, b.slope, b.depends}; }
  friend PYRL_HD Affine operator*(T a, Affine b) { return {a * b.constant, a * b.slope, b.depends}; }
};

// A lane whose carry is an Affine; it keeps nothing but that.
template <class T>
struct AffineLane : Lane<T> {
  template <class Value>
  static PYRL_HD PYRL_INLINE void store(T*, const Value&) {}
};

}  // namespace pyrl::returns
