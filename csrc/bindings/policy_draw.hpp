// The actions of a policy that is one network, drawn from what the network puts out.
#pragma once

#include <cstdint>

#include "core/array_view.hpp"
#include "sampling/categorical.hpp"
#include "sampling/gaussian.hpp"

namespace pyrl::bindings {

struct PolicyDraw {
  std::int64_t width = 0;            // of the output
  ArrayView<const float, 2> log_std;  // [1, width] of Gaussian actions; absent: the output is the logits of a Discrete one

  // output [n, width] -> action int64 [n] or float32 [n, width], log_prob [n].
  void operator()(const float* output, std::int64_t n, void* action, float* log_prob, const DrawSource& random) const {
    if (log_std.present()) {
      sampling::GaussianArgs call;
      call.mean = {output, {n, width}};
      call.log_std = log_std;
      call.action = {static_cast<float*>(action), {n, width}};
      call.log_prob = {log_prob, {n}};
      call.random = random;
      sampling::sample_gaussian(call);
    } else {
      sampling::CategoricalArgs call;
      call.logits = {output, {n, width}};
      call.nvec = {&width, {1}};
      call.action = {static_cast<std::int64_t*>(action), {n, 1}};
      call.log_prob = {log_prob, {n}};
      call.random = random;
      sampling::sample_categorical(call);
    }
  }
};

}  // namespace pyrl::bindings
