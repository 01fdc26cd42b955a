// Layer norm (Ba et al. 2016) over the rows of a matrix, and its gradient.
//
//   unit = (z - mean) / sqrt(variance + 1e-5),   y = unit * gain + shift        mean and variance over the row
//   dz = (u - mean(u) - unit * mean(u * unit)) / sqrt(variance + 1e-5),   u = dy * gain
//   d_gain = sum over rows of dy * unit,   d_shift = sum over rows of dy
//
// z, y, unit: [B, width]; gain, shift: [width]; deviation = 1 / sqrt(variance + 1e-5): [B].
#pragma once

#include <cstdint>

namespace pyrl::nn {

// In place: z becomes y. `unit` and `deviation`, which the gradient wants, may be null together.
template <class Real>
void layer_norm(const Real* gain, const Real* shift, std::int64_t batch, std::int64_t width, Real* z, Real* unit, Real* deviation);

// In place: dz comes as dy. `d_gain` and `d_shift` may be null together.
template <class Real>
void layer_norm_backward(const Real* gain, const Real* unit, const Real* deviation, std::int64_t batch, std::int64_t width, Real* dz, Real* d_gain,
                         Real* d_shift);

}  // namespace pyrl::nn
