// What the environments share: how a `pyrl_env` is filled in, and Python's arithmetic where C++ has another.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include "pyrl_env.h"

namespace pyrl::envs {

constexpr double pi = 3.141592653589793;

constexpr pyrl_space discrete(std::int64_t n) { return {PYRL_DISCRETE, PYRL_INT64, 0, {n, 0, 0, 0}, nullptr, nullptr}; }
constexpr pyrl_space box(std::int64_t n) { return {PYRL_BOX, PYRL_FLOAT32, 1, {n, 0, 0, 0}, nullptr, nullptr}; }
constexpr pyrl_space box(std::int64_t n, const double* low, const double* high) { return {PYRL_BOX, PYRL_FLOAT32, 1, {n, 0, 0, 0}, low, high}; }

// Names and defaults of the parameters. Those of Gymnasium's objects always come with the call.
template <std::size_t count>
struct Parameters {
  std::array<const char*, count> names;
  std::array<double, count> values{};
};

template <class State, std::size_t count>
constexpr pyrl_env describe(pyrl_space observation, pyrl_space action, std::uint32_t reset_uniforms, std::uint32_t step_uniforms,
                  const Parameters<count>& parameters, pyrl_reset_function reset, pyrl_step_function step) {
  return {PYRL_ENV_VERSION, sizeof(pyrl_env), observation, action, sizeof(State), reset_uniforms, step_uniforms, 0,
          static_cast<std::uint32_t>(count), parameters.names.data(), parameters.values.data(), reset, step, nullptr, nullptr};
}

// libm's pow, which a compiler would replace by a product: the last bit of x^2 may differ.
inline double power(double base, double exponent) {
  static double (*const volatile function)(double, double) = std::pow;
  return function(base, exponent);
}
inline float power(float base, float exponent) {
  static float (*const volatile function)(float, float) = std::pow;
  return function(base, exponent);
}

// Python's %, whose sign is the divisor's.
inline double modulo(double a, double b) {
  const double rest = std::fmod(a, b);
  if (rest == 0.0) return std::copysign(0.0, b);
  return (b < 0) != (rest < 0) ? rest + b : rest;
}

inline double between(double low, double high, double uniform) { return low + (high - low) * uniform; }

}  // namespace pyrl::envs
