// exp, log, tanh, the sine and cosine of a turn, as straight lines of arithmetic: no branch, no table, no fused
// multiply-add. So a loop over them vectorises, and every instruction set gives the same bits (the build sets
// -ffp-contract=off). The standard library's are neither inlined nor the same on every machine.
//
//   function            largest error seen, in units in the last place     ends
//   exp(float)          0.97   (every 61st of all floats)                  exp(-inf) = 0, overflow gives inf, subnormals are kept
//   exp(double)         0.97   (5 million arguments)                       as above
//   log(float)          0.83   (every 61st of all floats)                  log(0) = -inf, log(x < 0) = NaN, log(inf) = inf
//   log(double)         0.84   (5 million arguments)                       as above
//   tanh(float)         1.31   (every 61st of all floats)                  tanh(+-inf) = +-1, tanh(-0) = -0
//   log_uniform(uint32) 2.4    (every 4099th word)
//   turn(uint32)        1.1e-7, absolute (every 61st word)
//
// NaN gives NaN everywhere. Where no source is named, the polynomials are Taylor's, or minimax fits made for this file.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "core/platform.hpp"

namespace pyrl::elementary {

namespace detail {

template <class T> struct Format;
template <> struct Format<float> {
  using Bits = std::uint32_t;
  static constexpr int mantissa = 23;
  static constexpr Bits bias = 127;
  static constexpr float exp_lowest = -104.0f, exp_highest = 89.0f;      // beyond these exp is 0 and inf
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;  // the product of the high part and an exponent is exact
  static constexpr float rounder = 0x1.8p23f;  // adding it leaves the nearest integer in the low bits
  static constexpr Bits sqrt_half = 0x3f3504f3;
};
template <> struct Format<double> {
  using Bits = std::uint64_t;
  static constexpr int mantissa = 52;
  static constexpr Bits bias = 1023;
  static constexpr double exp_lowest = -746.0, exp_highest = 710.0;
  static constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
  static constexpr double rounder = 0x1.8p52;
  static constexpr Bits sqrt_half = 0x3fe6a09e667f3bcd;
};

template <class T>
PYRL_HD PYRL_INLINE T from_bits(typename Format<T>::Bits bits) { return std::bit_cast<T>(bits); }
template <class T>
PYRL_HD PYRL_INLINE typename Format<T>::Bits bits_of(T value) { return std::bit_cast<typename Format<T>::Bits>(value); }

// condition ? a : b in integers. Of a written choice between numbers GCC makes branches, threads jumps through the constants
// of one path, and then vectorises nothing.
template <class T>
PYRL_HD PYRL_INLINE T choose(bool condition, T a, T b) {
  using Bits = typename Format<T>::Bits;
  return from_bits<T>(bits_of(b) ^ ((bits_of(a) ^ bits_of(b)) & (Bits{0} - Bits{condition})));
}

// exp(r) for |r| <= ln(2) / 2.
PYRL_HD PYRL_INLINE float exp_reduced(float r) {
  const float p = (((0x1.6a24p-10f * r + 0x1.123ap-7f) * r + 0x1.5558f2p-5f) * r + 0x1.555492p-3f) * r + 0x1.fffffcp-2f;
  return 1.0f + (r + r * r * p);
}
PYRL_HD PYRL_INLINE double exp_reduced(double r) {
  double p = 1.0 / 6227020800;
  p = p * r + 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 1.0 / 2;
  return 1.0 + (r + r * r * p);
}

template <class T>
PYRL_HD PYRL_INLINE T exponential(T x) {
  using F = Format<T>;
  x = choose(x < F::exp_lowest, F::exp_lowest, x);
  x = choose(x > F::exp_highest, F::exp_highest, x);
  // x = k ln 2 + r
  const T shifted = x * T(1.4426950408889634) + F::rounder, k = shifted - F::rounder;
  const T e = exp_reduced((x - k * F::ln2_high) - k * F::ln2_low);
  // 2^k in two factors, so that neither leaves the normal range and the result rounds once. Their exponents, with bias, add
  // up to k + 2 bias, which is positive.
  const auto sum = bits_of(shifted) - bits_of(F::rounder) + 2 * F::bias;
  const auto half = sum >> 1;
  return e * from_bits<T>(half << F::mantissa) * from_bits<T>((sum - half) << F::mantissa);
}

// (2 atanh(s) - 2 s) / s as a series in z = s^2, for |s| <= 0.1716.
PYRL_HD PYRL_INLINE float log_tail(float z) { return z * (2.0f / 3 + z * (2.0f / 5 + z * (2.0f / 7 + z * (2.0f / 9)))); }
PYRL_HD PYRL_INLINE double log_tail(double z) {
  double p = 2.0 / 21;
  p = p * z + 2.0 / 19;
  p = p * z + 2.0 / 17;
  p = p * z + 2.0 / 15;
  p = p * z + 2.0 / 13;
  p = p * z + 2.0 / 11;
  p = p * z + 2.0 / 9;
  p = p * z + 2.0 / 7;
  p = p * z + 2.0 / 5;
  p = p * z + 2.0 / 3;
  return p * z;
}

// x = 2^k (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), for positive normal x.
template <class T>
struct Split {
  T k, f;
};
template <class T>
PYRL_HD PYRL_INLINE Split<T> split(T x) {
  using F = Format<T>;
  using Bits = typename F::Bits;
  constexpr T origin = T(Bits{1} << F::mantissa);
  const Bits bits = bits_of(x) + ((F::bias << F::mantissa) - F::sqrt_half);
  // The exponent becomes a number as the low bits of 2^mantissa.
  const T k = from_bits<T>((bits >> F::mantissa) | bits_of(origin)) - (origin + T(F::bias));
  return {k, from_bits<T>((bits & ((Bits{1} << F::mantissa) - 1)) + F::sqrt_half) - T(1)};
}

// log x = k ln 2 + f - (f^2/2 - s (f^2/2 + tail)), s = f / (2 + f).
template <class T>
PYRL_HD PYRL_INLINE T log_of(Split<T> x) {
  using F = Format<T>;
  const T s = x.f / (T(2) + x.f), half_square = T(0.5) * x.f * x.f;
  const T tail = log_tail(s * s);
  return x.k * F::ln2_high - ((half_square - (s * (half_square + tail) + x.k * F::ln2_low)) - x.f);
}

template <class T>
PYRL_HD PYRL_INLINE T logarithm(T x) {
  using F = Format<T>;
  constexpr T grow = T(typename F::Bits{1} << F::mantissa), infinity = std::numeric_limits<T>::infinity();
  const bool subnormal = x < std::numeric_limits<T>::min();
  Split<T> parts = split(choose(subnormal, x * grow, x));
  parts.k = choose(subnormal, parts.k - T(F::mantissa), parts.k);
  const T outside = choose(x == T(0), -infinity, std::numeric_limits<T>::quiet_NaN());
  return choose(x > T(0), choose(x < infinity, log_of(parts), x), outside);
}

}  // namespace detail

PYRL_HD PYRL_INLINE float exp(float x) { return detail::exponential(x); }
PYRL_HD PYRL_INLINE double exp(double x) { return detail::exponential(x); }
PYRL_HD PYRL_INLINE float log(float x) { return detail::logarithm(x); }
PYRL_HD PYRL_INLINE double log(double x) { return detail::logarithm(x); }

// log((word + 1/2) 2^-32), between -22.9 and 0: of a uniform number whose distance to 1 is kept as exactly as that to 0.
PYRL_HD PYRL_INLINE float log_uniform(std::uint32_t word) {
  detail::Split<float> parts = detail::split(static_cast<float>(word) * 0x1p-32f + 0x1p-33f);
  const float below_one = static_cast<float>(~word) * 0x1p-32f + 0x1p-33f;
  parts.f = detail::choose(parts.k == 0.0f, -below_one, parts.f);
  return detail::log_of(parts);
}

PYRL_HD PYRL_INLINE float tanh(float x) {
  const std::uint32_t bits = detail::bits_of(x), sign = bits & 0x80000000u;
  const float a = detail::from_bits<float>(bits ^ sign), z = a * a;
  const float near_zero =
      a + a * z * ((((-0x1.75e1dcp-8f * z + 0x1.52269ep-6f) * z - 0x1.b83c5ap-5f) * z + 0x1.110726p-3f) * z - 0x1.555532p-2f);
  const float far = 1.0f - 2.0f / (exp(a + a) + 1.0f);
  return detail::from_bits<float>(detail::bits_of(detail::choose(a < 0.625f, near_zero, far)) | sign);
}

struct SineCosine {
  float sine, cosine;
};

// Sine and cosine of the angle word / 2^32 of a full turn. The reduction to an eighth of a turn is exact, in integers.
PYRL_HD PYRL_INLINE SineCosine turn(std::uint32_t word) {
  const std::uint32_t quarter = (word + 0x20000000u) >> 30;
  const float t = static_cast<float>(static_cast<std::int32_t>(word - (quarter << 30))) * 0x1.921fb6p-30f, z = t * t;
  const float s = t + t * z * ((-0x1.9943e2p-13f * z + 0x1.11073cp-7f) * z - 0x1.555546p-3f);
  const float c = 1.0f - (0.5f * z - z * z * ((0x1.99eb9cp-16f * z - 0x1.6c0c34p-10f) * z + 0x1.55554ap-5f));
  const bool odd = (quarter & 1) != 0;
  const std::uint32_t sine_sign = (quarter & 2) << 30, cosine_sign = ((quarter + 1) & 2) << 30;
  return {detail::from_bits<float>(detail::bits_of(detail::choose(odd, c, s)) ^ sine_sign),
          detail::from_bits<float>(detail::bits_of(detail::choose(odd, s, c)) ^ cosine_sign)};
}

}  // namespace pyrl::elementary
