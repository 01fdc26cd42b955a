// Optimiser steps over arenas.
#include <cmath>
#include <span>

#include "bindings/array_arg.hpp"
#include "bindings/border.hpp"
#include "bindings/fast_call.hpp"
#include "bindings/real_arg.hpp"
#include "bindings/registry.hpp"
#include "core/streaming_copy.hpp"
#include "nn/optimizer.hpp"

namespace py = pybind11;
using namespace pyrl;
using namespace pyrl::bindings;

namespace {

double max_norm_arg(py::handle object, const char* function) { return object.is_none() ? infinity : number_in(object, 0, infinity, function, "max_grad_norm"); }

// Runs step(gradients, factor of the clip) unless the gradient's norm is not finite; returns the norm.
template <class Real, class Step>
double clipped_step(const ArrayArg& gradients, double max_norm, const void* parameters, const Step& step) {
  const auto g = gradients.as<const Real, 1>("[size]");
  const double norm = alone(lock_of(parameters), [&] {
    const double found = nn::global_norm<Real>(g);
    if (std::isfinite(found)) step(g, nn::clip_factor(found, max_norm));
    return found;
  });
  if (!std::isfinite(norm)) throw_non_finite<Real>({&gradients});
  return norm;
}

// (parameters, gradients, exp_avg, exp_avg_sq, step, lr, beta1, beta2, eps, weight_decay, decoupled, max_grad_norm) -> norm
py::object adam(FastArgs args) {
  const char* function = "adam";
  Border border(function);
  const ArrayArg gradients = border.input(args[1]);
  const Location location = real_location(gradients.kind, gradients);
  const OutputArg parameters = border.output(args[0], location);
  const OutputArg exp_avg = border.output(args[2], location), exp_avg_sq = border.output(args[3], location);
  const auto count = border.output(args[4]).as<float, 0>("[]");
  const double lr = number_below(args[5], 0, infinity), beta1 = number_below(args[6], 0, 1);
  const double beta2 = number_below(args[7], 0, 1), epsilon = number_below(args[8], 0, infinity);
  const double decay = number_below(args[9], 0, infinity), max_norm = max_norm_arg(args[11], function);
  const bool decoupled = flag_arg(args[10]);
  const std::array<std::int64_t, 1> size{gradients.size()};
  return py::float_(with_real(gradients, [&]<class Real>(Real) {
    const auto p = parameters.as<Real, 1>(size, "[size]"), m = exp_avg.as<Real, 1>(size, "[size]"), v = exp_avg_sq.as<Real, 1>(size, "[size]");
    return clipped_step<Real>(gradients, max_norm, p.data, [&](const ArrayView<const Real, 1>& g, double factor) {
      const double number = static_cast<double>(*count.data) + 1;
      *count.data += 1;
      nn::adam<Real>({p, g, m, v, number, lr, beta1, beta2, epsilon, decay, decoupled, factor});
    });
  }));
}

// (parameters, gradients, square_avg, step, lr, alpha, eps, weight_decay, epsilon_inside, max_grad_norm) -> norm
py::object rmsprop(FastArgs args) {
  const char* function = "rmsprop";
  Border border(function);
  const ArrayArg gradients = border.input(args[1]);
  const Location location = real_location(gradients.kind, gradients);
  const OutputArg parameters = border.output(args[0], location), square_avg = border.output(args[2], location);
  const auto count = border.output(args[3]).as<float, 0>("[]");
  const double lr = number_below(args[4], 0, infinity), alpha = number_in(args[5], 0, 1);
  const double epsilon = number_below(args[6], 0, infinity);
  const double decay = number_below(args[7], 0, infinity);
  const bool inside = flag_arg(args[8]);
  const double max_norm = max_norm_arg(args[9], function);
  const std::array<std::int64_t, 1> size{gradients.size()};
  return py::float_(with_real(gradients, [&]<class Real>(Real) {
    const auto p = parameters.as<Real, 1>(size, "[size]"), v = square_avg.as<Real, 1>(size, "[size]");
    return clipped_step<Real>(gradients, max_norm, p.data, [&](const ArrayView<const Real, 1>& g, double factor) {
      *count.data += 1;
      nn::rmsprop<Real>({p, g, v, lr, alpha, epsilon, decay, inside, factor});
    });
  }));
}

// (target, online, tau)
py::object polyak(FastArgs args) {
  const char* function = "polyak";
  Border border(function);
  const OutputArg target = border.output(args[0]);
  const ArrayArg online = border.input(args[1], real_location(target.kind, target));
  const double tau = number_in(args[2], 0, 1);
  with_real(target, [&]<class Real>(Real) {
    const auto to = target.as<Real, 1>("[size]");
    const auto from = online.as<const Real, 1>({target.size()}, "[size]");
    alone(lock_of(to.data), [&] { nn::polyak<Real>(to, from, tau); });
  });
  return py::none();
}

// (array, kept)
py::object copy_nontemporal(FastArgs args) {
  const char* function = "copy_nontemporal";
  Border border(function);
  const ArrayArg from = border.input(args[0]);
  const OutputArg to = border.output(args[1]);
  PYRL_CHECK(from.dtype != DType::Other, DTypeError, function, ": array has dtype ", from.dtype_text(), ", expected a boolean, integers or floats");
  from.require_cpu();
  from.require_contiguous();
  to.require_cpu();
  to.require_dtype(from.dtype);
  to.require_shape(std::span(from.shape.data(), static_cast<std::size_t>(from.rank)), "[...]");
  to.require_contiguous();
  ReleaseGil released;
  streaming_copy(to.data, from.data, from.size() * size_of(from.dtype));
  return py::none();
}

}  // namespace

PYRL_BINDINGS(optimizers, m) {
  def_fast<adam, "adam(parameters, gradients, exp_avg, exp_avg_sq, step, lr, beta1, beta2, eps, weight_decay, decoupled, max_grad_norm)">(m);
  def_fast<rmsprop, "rmsprop(parameters, gradients, square_avg, step, lr, alpha, eps, weight_decay, epsilon_inside, max_grad_norm)">(m);
  def_fast<polyak, "polyak(target, online, tau)">(m);
  def_fast<copy_nontemporal, "copy_nontemporal(array, kept)">(m);
}
