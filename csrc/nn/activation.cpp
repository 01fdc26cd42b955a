#include "nn/activation.hpp"

#include <cmath>

#include "core/elementary.hpp"
#include "core/platform.hpp"

namespace pyrl::nn {
namespace {

PYRL_INLINE float tanh_of(float z) { return elementary::tanh(z); }
inline double tanh_of(double z) { return std::tanh(z); }

template <class Real>
PYRL_INLINE Real sigmoid(Real z) {
  return Real(1) / (Real(1) + elementary::exp(-z));
}

template <class Real>
inline Real normal_distribution(Real z) {
  return Real(0.5) * (Real(1) + std::erf(z * Real(0.70710678118654752440)));
}

template <class Real, class Function>
void each(std::int64_t n, Real* out, const Function& function) {
  simd::dispatch([&]() PYRL_INLINE_LAMBDA {
    for (std::int64_t i = 0; i < n; ++i) out[i] = function(i);
  });
}

}  // namespace

template <class Real>
void activate(Activation activation, const Real* z, std::int64_t n, Real* out) {
  switch (activation) {
    case Activation::Identity: return each(n, out, [=](std::int64_t i) PYRL_INLINE_LAMBDA { return z[i]; });
    case Activation::Relu: return each(n, out, [=](std::int64_t i) PYRL_INLINE_LAMBDA { return z[i] > Real(0) ? z[i] : Real(0); });
    case Activation::Tanh: return each(n, out, [=](std::int64_t i) PYRL_INLINE_LAMBDA { return tanh_of(z[i]); });
    case Activation::Silu: return each(n, out, [=](std::int64_t i) PYRL_INLINE_LAMBDA { return z[i] * sigmoid(z[i]); });
    case Activation::Gelu: return each(n, out, [=](std::int64_t i) PYRL_INLINE_LAMBDA { return z[i] * normal_distribution(z[i]); });
  }
}

template <class Real>
void differentiate(Activation activation, const Real* seen, const Real* gradient, std::int64_t n, Real* out) {
  switch (activation) {
    case Activation::Identity: return each(n, out, [=](std::int64_t i) PYRL_INLINE_LAMBDA { return gradient[i]; });
    case Activation::Relu: return each(n, out, [=](std::int64_t i) PYRL_INLINE_LAMBDA { return seen[i] > Real(0) ? gradient[i] : Real(0); });
    case Activation::Tanh: return each(n, out, [=](std::int64_t i) PYRL_INLINE_LAMBDA { return gradient[i] * (Real(1) - seen[i] * seen[i]); });
    case Activation::Silu:
      return each(n, out, [=](std::int64_t i) PYRL_INLINE_LAMBDA {
        const Real s = sigmoid(seen[i]);
        return gradient[i] * s * (Real(1) + seen[i] * (Real(1) - s));
      });
    case Activation::Gelu:
      return each(n, out, [=](std::int64_t i) PYRL_INLINE_LAMBDA {
        const Real z = seen[i], density = Real(0.39894228040143267794) * elementary::exp(Real(-0.5) * z * z);
        return gradient[i] * (normal_distribution(z) + z * density);
      });
  }
}

template void activate<float>(Activation, const float*, std::int64_t, float*);
template void activate<double>(Activation, const double*, std::int64_t, double*);
template void differentiate<float>(Activation, const float*, const float*, std::int64_t, float*);
template void differentiate<double>(Activation, const double*, const double*, std::int64_t, double*);

}  // namespace pyrl::nn
