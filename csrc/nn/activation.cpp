#include "nn/activation.hpp"

#include <cmath>

#include "core/elementary.hpp"
#include "core/interrupt.hpp"
#include "core/platform.hpp"

namespace pyrl::nn {
namespace {

using elementary::detail::choose;

// Evaluates c[0] + c[1] x + c[2] x^2 + ...
template <class Real, std::size_t size>
PYRL_INLINE Real polynomial(const Real (&c)[size], Real x) {
  Real sum = c[size - 1];
  for (std::size_t k = size - 1; k-- > 0;) sum = sum * x + c[k];
  return sum;
}

// A rational minimax fit, half the time of elementary::tanh; largest relative error 3.5e-7. From 9.1 on it is 1.
PYRL_INLINE float tanh_of(float x) {
  constexpr float above[] = {9.99999977e-1f, 1.33744576e-1f, 3.48779007e-3f, 2.04808449e-5f, 1.31770648e-8f};
  constexpr float below[] = {1.0f, 4.67077714e-1f, 2.58473088e-2f, 3.27288596e-4f, 7.70385495e-7f};
  const float size = std::fabs(x), a = choose(size > 9.1f, 9.1f, size), square = a * a;
  const float y = a * polynomial(above, square) / polynomial(below, square);
  return std::copysign(choose(y > 1.0f, 1.0f, y), x);
}
inline double tanh_of(double x) { return std::tanh(x); }

template <class Real>
PYRL_INLINE Real sigmoid(Real z) {
  return Real(1) / (Real(1) + elementary::exp(-z));
}

// The normal distribution function and its density. The tail beyond |z| is exp(-z^2 / 2) r(|z|) with a rational minimax fit r of
// relative error 6e-9, so that small values are as exact as large ones.
template <class Real>
struct Normal {
  Real distribution, density;
};
PYRL_INLINE Normal<float> normal(float z) {
  constexpr float above[] = {0.500000003f, 0.438295101f, 0.183235139f, 0.0406331953f, 0.00411629549f};
  constexpr float below[] = {1.0f, 1.67447518f, 1.20250339f, 0.469470607f, 0.101858763f, 0.0103179029f};
  const float size = std::fabs(z), t = size > 15.0f ? 15.0f : size;
  const float bell = elementary::exp(-0.5f * t * t), tail = bell * polynomial(above, t) / polynomial(below, t);
  return {z > 0.0f ? 1.0f - tail : tail, 0.398942280f * bell};
}
inline Normal<double> normal(double z) {
  return {0.5 * std::erfc(z * -0.70710678118654752440), 0.39894228040143267794 * elementary::exp(-0.5 * z * z)};
}

template <class Real, class Function>
void each(std::int64_t n, Real* out, const Function& function) {
  in_pieces(n, std::int64_t{1} << 18, [&](std::int64_t begin, std::int64_t end) {
    simd::dispatch([&]() PYRL_INLINE_LAMBDA {
      for (std::int64_t i = begin; i < end; ++i) out[i] = function(i);
    });
  });
}

}  // namespace

template <class Real>
void activate(Activation activation, const Real* z, std::int64_t n, Real* out) {
  switch (activation) {
    case Activation::Identity: return each(n, out, [=](std::int64_t i) PYRL_INLINE_LAMBDA { return z[i]; });
    case Activation::Relu: return each(n, out, [=](std::int64_t i) PYRL_INLINE_LAMBDA { return z[i] < Real(0) ? Real(0) : z[i]; });
    case Activation::Tanh: return each(n, out, [=](std::int64_t i) PYRL_INLINE_LAMBDA { return tanh_of(z[i]); });
    case Activation::Silu: return each(n, out, [=](std::int64_t i) PYRL_INLINE_LAMBDA { return z[i] * sigmoid(z[i]); });
    case Activation::Gelu: return each(n, out, [=](std::int64_t i) PYRL_INLINE_LAMBDA { return z[i] * normal(z[i]).distribution; });
  }
}

template <class Real>
void differentiate(Activation activation, const Real* seen, const Real* gradient, std::int64_t n, Real* out) {
  switch (activation) {
    case Activation::Identity: return each(n, out, [=](std::int64_t i) PYRL_INLINE_LAMBDA { return gradient[i]; });
    case Activation::Relu:
      return each(n, out, [=](std::int64_t i) PYRL_INLINE_LAMBDA {
        const Real y = seen[i], dy = gradient[i];
        return y <= Real(0) ? Real(0) : dy;
      });
    case Activation::Tanh: return each(n, out, [=](std::int64_t i) PYRL_INLINE_LAMBDA { return gradient[i] * (Real(1) - seen[i] * seen[i]); });
    case Activation::Silu:
      return each(n, out, [=](std::int64_t i) PYRL_INLINE_LAMBDA {
        const Real s = sigmoid(seen[i]);
        return gradient[i] * s * (Real(1) + seen[i] * (Real(1) - s));
      });
    case Activation::Gelu:
      return each(n, out, [=](std::int64_t i) PYRL_INLINE_LAMBDA {
        const Normal<Real> at = normal(seen[i]);
        return gradient[i] * (at.distribution + seen[i] * at.density);
      });
  }
}

template void activate<float>(Activation, const float*, std::int64_t, float*);
template void activate<double>(Activation, const double*, std::int64_t, double*);
template void differentiate<float>(Activation, const float*, const float*, std::int64_t, float*);
template void differentiate<double>(Activation, const double*, const double*, std::int64_t, double*);

}  // namespace pyrl::nn
