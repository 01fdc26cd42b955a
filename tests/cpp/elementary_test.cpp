#include "core/elementary.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <vector>

#include "core/philox.hpp"

using namespace pyrl;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// Distance to the true value in units in the last place of the result's type.
template <class T, class Wide>
double ulps(T got, Wide wanted) {
  if (std::isnan(wanted) || std::isnan(got)) return std::isnan(wanted) && std::isnan(got) ? 0 : std::numeric_limits<double>::max();
  if (static_cast<T>(wanted) == got) return 0;
  constexpr int lowest = std::numeric_limits<T>::min_exponent - 1, digits = std::numeric_limits<T>::digits - 1;
  const int exponent = wanted == 0 ? lowest : std::max(std::ilogb(wanted), lowest);
  return static_cast<double>(std::fabs(static_cast<Wide>(got) - wanted) / std::scalbn(Wide{1}, exponent - digits));
}

// Every 65537th float, of either sign: all exponents, all special values' neighbourhoods.
template <class Body>
void for_floats(const Body& body) {
  for (std::uint64_t bits = 0; bits <= 0xffffffffu; bits += 65537) body(std::bit_cast<float>(static_cast<std::uint32_t>(bits)));
}

double uniform(std::uint32_t i) {
  const auto words = philox(1, 0, i, 0);
  return uniform_double(words[0], words[1]);
}

}  // namespace

TEST_CASE("float functions stay within their stated error over the whole range") {
  double of_exp = 0, of_log = 0, of_tanh = 0;
  for_floats([&](float x) {
    const double wide = x;
    of_exp = std::max(of_exp, ulps(elementary::exp(x), std::exp(wide)));
    of_log = std::max(of_log, ulps(elementary::log(x), std::log(wide)));
    of_tanh = std::max(of_tanh, ulps(elementary::tanh(x), std::tanh(wide)));
  });
  for (std::uint32_t i = 0; i < 100000; ++i) {  // where the functions bend
    const float x = static_cast<float>(uniform(i) * 4 - 2);
    of_exp = std::max(of_exp, ulps(elementary::exp(x), std::exp(static_cast<double>(x))));
    of_tanh = std::max(of_tanh, ulps(elementary::tanh(x), std::tanh(static_cast<double>(x))));
    of_log = std::max(of_log, ulps(elementary::log(x + 2), std::log(static_cast<double>(x + 2))));
  }
  CHECK(of_exp < 1.1);
  CHECK(of_log < 0.9);
  CHECK(of_tanh < 1.5);
}

TEST_CASE("double functions stay within their stated error") {
  double of_exp = 0, of_log = 0;
  for (std::uint32_t i = 0; i < 300000; ++i) {
    const double x = uniform(i) * 1460 - 748, near_zero = uniform(i) * 2 - 1, near_one = uniform(i) * 2;
    const auto words = philox(2, 0, i, 0);
    const double any = std::bit_cast<double>((std::uint64_t{words[0]} << 32 | words[1]) >> 1);
    for (double argument : {x, near_zero})
      of_exp = std::max(of_exp, ulps(elementary::exp(argument), std::exp(static_cast<long double>(argument))));
    for (double argument : {any, near_one})
      of_log = std::max(of_log, ulps(elementary::log(argument), std::log(static_cast<long double>(argument))));
  }
  CHECK(of_exp < 1.1);
  CHECK(of_log < 0.9);
}

TEST_CASE("log_uniform keeps the distance to either end") {
  double worst = 0;
  const auto measure = [&](std::uint64_t word) {
    const double below_one = (static_cast<double>(0xffffffffu - word) + 0.5) * 0x1p-32;
    worst = std::max(worst, ulps(elementary::log_uniform(static_cast<std::uint32_t>(word)), std::log1p(-below_one)));
  };
  for (std::uint64_t word = 0; word <= 0xffffffffu; word += 4099) measure(word);
  for (std::uint64_t i = 0; i < 1000; ++i) {
    measure(i);
    measure(0xffffffffu - i);
    measure(0xb504f000u + i);  // sqrt(1/2)
  }
  CHECK(worst < 2.5);
  CHECK(elementary::log_uniform(0xffffffffu) < 0);
}

TEST_CASE("turn stays within its stated error, and is exact at the quarters") {
  double worst = 0;
  for (std::uint64_t word = 0; word <= 0xffffffffu; word += 65537) {
    const double angle = static_cast<double>(word) * (2 * std::numbers::pi * 0x1p-32);
    const auto got = elementary::turn(static_cast<std::uint32_t>(word));
    worst = std::max({worst, std::fabs(got.sine - std::sin(angle)), std::fabs(got.cosine - std::cos(angle))});
  }
  CHECK(worst < 1.1e-7);
  CHECK(elementary::turn(0).cosine == 1);
  CHECK(elementary::turn(0x40000000u).sine == 1);
  CHECK(elementary::turn(0x80000000u).cosine == -1);
  CHECK(elementary::turn(0xc0000000u).sine == -1);
  CHECK(elementary::turn(0xc0000000u).cosine == 0);
}

TEST_CASE_TEMPLATE("the ends of the range", T, float, double) {
  using Limits = std::numeric_limits<T>;
  const T inf = Limits::infinity(), nan = Limits::quiet_NaN();
  CHECK(elementary::exp(T(0)) == 1);
  CHECK(elementary::exp(-inf) == 0);
  CHECK(elementary::exp(inf) == inf);
  CHECK(elementary::exp(T(1e4)) == inf);
  CHECK(elementary::exp(T(-1e4)) == 0);
  CHECK(std::isnan(elementary::exp(nan)));
  const T subnormal = elementary::exp(std::log(Limits::min()) - 2);
  CHECK(subnormal > 0);
  CHECK(subnormal < Limits::min());
  CHECK(elementary::log(T(1)) == 0);
  CHECK(elementary::log(T(0)) == -inf);
  CHECK(elementary::log(-T(0)) == -inf);
  CHECK(elementary::log(inf) == inf);
  CHECK(std::isnan(elementary::log(T(-1))));
  CHECK(std::isnan(elementary::log(-inf)));
  CHECK(std::isnan(elementary::log(nan)));
  CHECK(ulps(elementary::log(Limits::denorm_min()), std::log(static_cast<long double>(Limits::denorm_min()))) < 0.9);
}

TEST_CASE("tanh is odd and ends at one") {
  CHECK(elementary::tanh(infinity) == 1);
  CHECK(elementary::tanh(-infinity) == -1);
  CHECK(std::signbit(elementary::tanh(-0.0f)));
  CHECK(std::isnan(elementary::tanh(std::numeric_limits<float>::quiet_NaN())));
  for (std::uint32_t i = 0; i < 1000; ++i) {
    const float x = static_cast<float>(uniform(i) * 10);
    CHECK(elementary::tanh(-x) == -elementary::tanh(x));
  }
}

TEST_CASE("a vectorised loop gives the bits of the scalar functions at every level") {
  constexpr int count = 1003;
  std::vector<float> x(count), exp_(count), log_(count), tanh_(count), sine(count);
  std::vector<double> wide(count), wide_exp(count), wide_log(count);
  for (int i = 0; i < count; ++i) {
    x[i] = std::bit_cast<float>(philox(3, 0, static_cast<std::uint32_t>(i), 0)[0] & (i % 2 ? 0xbfffffffu : 0x42ffffffu));
    wide[i] = uniform(static_cast<std::uint32_t>(i)) * 1400 - 700;
  }
  const auto before = simd::level();
  for (auto level : {simd::Level::Portable, simd::Level::Avx2, simd::Level::Avx512}) {
    simd::set_level(level);
    simd::dispatch([&]() PYRL_INLINE_LAMBDA {
      for (int i = 0; i < count; ++i) exp_[i] = elementary::exp(x[i]);
      for (int i = 0; i < count; ++i) log_[i] = elementary::log(x[i]);
      for (int i = 0; i < count; ++i) tanh_[i] = elementary::tanh(x[i]);
      for (int i = 0; i < count; ++i) sine[i] = elementary::turn(static_cast<std::uint32_t>(i) * 4294967u).sine;
      for (int i = 0; i < count; ++i) wide_exp[i] = elementary::exp(wide[i]);
      for (int i = 0; i < count; ++i) wide_log[i] = elementary::log(wide[i]);
    });
    int different = 0;
    const auto compare = [&](auto a, auto b) { different += !(a == b || (std::isnan(a) && std::isnan(b))); };
    for (int i = 0; i < count; ++i) {
      volatile float argument = x[i];  // keeps this loop scalar
      volatile double wide_argument = wide[i];
      compare(exp_[i], elementary::exp(float{argument}));
      compare(log_[i], elementary::log(float{argument}));
      compare(tanh_[i], elementary::tanh(float{argument}));
      compare(sine[i], elementary::turn(static_cast<std::uint32_t>(i) * 4294967u).sine);
      compare(wide_exp[i], elementary::exp(double{wide_argument}));
      compare(wide_log[i], elementary::log(double{wide_argument}));
    }
    CHECK(different == 0);
  }
  simd::set_level(before);
}
