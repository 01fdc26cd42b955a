// Activations and their derivatives, elementwise over n numbers.
//
//   relu  max(z, 0)      tanh      silu  z / (1 + exp(-z))      gelu  z Phi(z), Phi the normal distribution function (exact form)
//
// The derivative of relu and tanh follows from the output, that of silu and gelu from the argument.
#pragma once

#include <cstdint>

namespace pyrl::nn {

enum class Activation : std::uint8_t { Identity, Relu, Tanh, Silu, Gelu };

// Whether `differentiate` wants the argument z rather than the output.
constexpr bool needs_argument(Activation activation) { return activation == Activation::Silu || activation == Activation::Gelu; }

// out = f(z); in place is fine.
template <class Real>
void activate(Activation activation, const Real* z, std::int64_t n, Real* out);

// out = gradient * f'(z), where `seen` is z or f(z), see needs_argument; in place with `gradient` is fine.
template <class Real>
void differentiate(Activation activation, const Real* seen, const Real* gradient, std::int64_t n, Real* out);

}  // namespace pyrl::nn
