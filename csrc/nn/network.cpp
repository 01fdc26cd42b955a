#include "nn/network.hpp"

#include <algorithm>
#include <utility>

#include "core/interrupt.hpp"
#include "nn/layer_norm.hpp"
#include "nn/product.hpp"

namespace pyrl::nn {
namespace {

constexpr std::int64_t infer_rows = 256;  // a block of `infer`: its activations stay in the second-level cache

// sums[j] = sum over i of x[i, j]: a row of ones times x
template <class Real>
void column_sums(const Real* x, std::int64_t rows, std::int64_t columns, Real* sums) {
  constexpr Real one = 1;
  multiply<Real>({.rows = 1, .columns = columns, .depth = rows, .a = &one, .a_row = 0, .a_step = 0, .b = x, .b_row = columns,
                  .c = sums, .c_row = columns});
}

// The derivative that the product which makes a gradient w.r.t. outputs can apply; None: `differentiate` does.
Finish gate_of(Activation activation) {
  return activation == Activation::Relu ? Finish::ReluGate : activation == Activation::Tanh ? Finish::TanhGate : Finish::None;
}

}  // namespace

template <class Real>
Network<Real>::Network(std::vector<Layer> layers, bool bfloat16) : layers_(std::move(layers)), bfloat16_(bfloat16), kept_(layers_.size()) {
  for (const Layer& layer : layers_) widest_ = std::max({widest_, layer.in, layer.out});
}

template <class Real>
const Real* Network<Real>::joined(const Inputs<Real>& x, std::int64_t rows, Workspace<Real>& memory) const {
  const std::int64_t width = x.a_width + x.b_width;
  Real* const to = memory.reserve(rows * width);
  if (x.b_width == 0) {
    std::copy_n(x.a, rows * width, to);
    return to;
  }
  for (std::int64_t i = 0; i < rows; ++i) {
    std::copy_n(x.a + i * x.a_width, x.a_width, to + i * width);
    std::copy_n(x.b + i * x.b_width, x.b_width, to + i * width + x.a_width);
  }
  return to;
}

template <class Real>
void Network<Real>::layer_forward(const Layer& layer, const Real* parameters, const Real* x, std::int64_t rows, Real* y, Kept* kept) {
  const std::int64_t size = rows * layer.out;
  Real* const z = kept != nullptr && needs_argument(layer.activation) ? kept->argument.reserve(size) : y;
  const bool relu_at_once = layer.activation == Activation::Relu && layer.gain < 0;
  multiply<Real>({.rows = rows, .columns = layer.out, .depth = layer.in, .a = x, .a_row = layer.in, .b = parameters + layer.weight,
                  .b_row = layer.out, .init = layer.bias < 0 ? nullptr : parameters + layer.bias, .c = z, .c_row = layer.out,
                  .finish = relu_at_once ? Finish::Relu : Finish::None, .bfloat16 = bfloat16_});
  if (relu_at_once) return;
  if (layer.gain >= 0) {
    Real* const unit = kept == nullptr ? nullptr : kept->unit.reserve(size);
    Real* const deviation = kept == nullptr ? nullptr : kept->deviation.reserve(rows);
    layer_norm(parameters + layer.gain, parameters + layer.shift, rows, layer.out, z, unit, deviation);
  }
  if (layer.activation != Activation::Identity) activate(layer.activation, z, size, y);
}

template <class Real>
void Network<Real>::forward(const Real* parameters, const Inputs<Real>& x, std::int64_t batch, Real* y) {
  batch_ = -1;  // until all is kept: memory may run out, and the call may be stopped
  const Real* hidden = joined(x, batch, input_);
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    Real* const output = kept_[l].output.reserve(batch * layers_[l].out);
    layer_forward(layers_[l], parameters, hidden, batch, output, &kept_[l]);
    hidden = output;
    check_interrupt();
  }
  std::copy_n(hidden, batch * out(), y);
  batch_ = batch;
  a_width_ = x.a_width;
}

template <class Real>
void Network<Real>::infer(const Real* parameters, const Inputs<Real>& x, std::int64_t batch, Real* y) {
  for (Workspace<Real>& rows : rows_) rows.reserve(std::min(batch, infer_rows) * widest_);
  for (std::int64_t first = 0; first < batch; first += infer_rows) {
    check_interrupt();
    const std::int64_t rows = std::min(infer_rows, batch - first);
    const Inputs<Real> part{x.a + first * x.a_width, x.a_width, x.b + first * x.b_width, x.b_width};
    const Real* hidden = x.b_width == 0 ? part.a : joined(part, rows, joined_);
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      Real* const output = l + 1 == layers_.size() ? y + first * out() : rows_[l % 2].data();
      layer_forward(layers_[l], parameters, hidden, rows, output, nullptr);
      hidden = output;
    }
  }
}

// `dz` comes as the gradient w.r.t. the layer's output, or already through its activation (`gated`), and is used up; dx (null: not wanted) is
// that w.r.t. its input, which for some activations of the layer before is gated.
template <class Real>
void Network<Real>::layer_backward(std::size_t index, const Real* parameters, Real* gradients, Real* dz, Real* dx) {
  const Layer& layer = layers_[index];
  const Kept& kept = kept_[index];
  const Real* const x = index == 0 ? input_.data() : kept_[index - 1].output.data();
  const bool gated = index + 1 < layers_.size() && gate_of(layer.activation) != Finish::None;
  if (layer.activation != Activation::Identity && !gated) {
    const Real* const seen = needs_argument(layer.activation) ? kept.argument.data() : kept.output.data();
    differentiate(layer.activation, seen, dz, batch_ * layer.out, dz);
  }
  if (layer.gain >= 0) {
    Real* const d_gain = gradients == nullptr ? nullptr : gradients + layer.gain;
    Real* const d_shift = gradients == nullptr ? nullptr : gradients + layer.shift;
    layer_norm_backward(parameters + layer.gain, kept.unit.data(), kept.deviation.data(), batch_, layer.out, dz, d_gain, d_shift);
  }
  if (gradients != nullptr) {
    if (layer.bias >= 0) column_sums(dz, batch_, layer.out, gradients + layer.bias);
    if (layer.out < 8) {  // X^T dY would use a few lanes of each vector; its transpose uses all
      Real* const d_weight = narrow_.reserve(layer.out * layer.in);
      multiply<Real>({.rows = layer.out, .columns = layer.in, .depth = batch_, .a = dz, .a_row = 1, .a_step = layer.out, .b = x,
                      .b_row = layer.in, .c = d_weight, .c_row = layer.in});
      transpose(d_weight, layer.out, layer.in, gradients + layer.weight);
    } else {
      multiply<Real>({.rows = layer.in, .columns = layer.out, .depth = batch_, .a = x, .a_row = 1, .a_step = layer.in, .b = dz,
                      .b_row = layer.out, .c = gradients + layer.weight, .c_row = layer.out, .bfloat16 = bfloat16_});
    }
  }
  if (dx == nullptr) return;
  const Finish gate = index == 0 ? Finish::None : gate_of(layers_[index - 1].activation);
  multiply<Real>({.rows = batch_, .columns = layer.in, .depth = layer.out, .a = dz, .a_row = layer.out, .b = parameters + layer.weight,
                  .b_row = layer.out, .b_transposed = true, .c = dx, .c_row = layer.in, .finish = gate,
                  .seen = gate == Finish::None ? nullptr : x, .bfloat16 = bfloat16_});
}

template <class Real>
void Network<Real>::backward(const Real* parameters, Real* gradients, const Real* dy, Real* da, Real* db) {
  for (Workspace<Real>& gradient : gradient_) gradient.reserve(batch_ * widest_);
  Real *current = gradient_[0].data(), *other = gradient_[1].data();
  std::copy_n(dy, batch_ * out(), current);
  for (std::size_t l = layers_.size(); l-- > 0;) {
    check_interrupt();
    const bool wanted = l > 0 || da != nullptr || db != nullptr;
    layer_backward(l, parameters, gradients, current, wanted ? other : nullptr);
    std::swap(current, other);
  }
  // `current` holds the gradient w.r.t. x, [B, D].
  std::int64_t at = 0;
  for (const auto& [to, width] : {std::pair{da, a_width_}, std::pair{db, in() - a_width_}}) {
    if (to != nullptr)
      for (std::int64_t i = 0; i < batch_; ++i)
        std::copy_n(current + i * in() + at, width, to + i * width);
    at += width;
  }
}

template class Network<float>;
template class Network<double>;

}  // namespace pyrl::nn
