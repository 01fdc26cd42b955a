// Multilayer perceptrons over an arena: forward, and backward by hand.
//
//   h_0 = x (one or two matrices side by side)
//   z_l = h_{l-1} W_l + b_l
//   z_l <- (z_l - mean) / sqrt(variance + 1e-5) * gain + shift        where the layer has a norm (Ba et al. 2016), over its width
//   h_l = f_l(z_l),   y = h_L
//
// An arena is one flat array that holds every parameter; a layer names where its tensors start. W_l is stored as [in, out], so that
// forward reads it in rows. Gradients are in an array of the same layout.
//
// x: [B, D]; y: [B, out]. `forward` keeps what `backward` needs, which differentiates the latest `forward`. Memory grows to the
// largest batch and stays. Not for two threads at once; results do not depend on the number of threads used inside.
// Cost: 2 B sum(in * out) operations forward, twice that backward.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "nn/activation.hpp"
#include "nn/workspace.hpp"

namespace pyrl::nn {

struct Layer {
  std::int64_t in = 0, out = 0;
  std::int64_t weight = -1, bias = -1;  // where they start in the arena; -1: none
  std::int64_t gain = -1, shift = -1;   // of the layer norm; both or none
  Activation activation = Activation::Identity;
};

// The columns of x: those of a, then those of b.
template <class Real>
struct Inputs {
  const Real* a = nullptr;
  std::int64_t a_width = 0;
  const Real* b = nullptr;
  std::int64_t b_width = 0;
};

template <class Real>
class Network {
 public:
  // Each layer's `in` is the `out` of the one before. `bfloat16`: products round to it where that is faster; all else stays in Real.
  explicit Network(std::vector<Layer> layers, bool bfloat16 = false);

  std::int64_t in() const { return layers_.front().in; }
  std::int64_t out() const { return layers_.back().out; }
  const std::vector<Layer>& layers() const { return layers_; }

  // y = network(x), to be differentiated.
  void forward(const Real* parameters, const Inputs<Real>& x, std::int64_t batch, Real* y);
  // The same with nothing kept, in blocks of rows that stay in the cache. The latest `forward` stays differentiable.
  void infer(const Real* parameters, const Inputs<Real>& x, std::int64_t batch, Real* y);
  // From dy [B, out]: writes the gradient w.r.t. every parameter (none if `gradients` is null), and w.r.t. the columns of a and b where
  // asked (not null).
  void backward(const Real* parameters, Real* gradients, const Real* dy, Real* da, Real* db);

  // Of the latest forward: rows (-1: there was none), and columns of a.
  std::int64_t batch() const { return batch_; }
  std::int64_t a_width() const { return a_width_; }

 private:
  struct Kept {
    Workspace<Real> output;           // h_l
    Workspace<Real> argument;         // z_l, where the derivative wants it
    Workspace<Real> unit, deviation;  // of the layer norm
  };

  void layer_forward(const Layer& layer, const Real* parameters, const Real* x, std::int64_t rows, Real* y, Kept* kept);
  void layer_backward(std::size_t index, const Real* parameters, Real* gradients, Real* dz, Real* dx);
  const Real* joined(const Inputs<Real>& x, std::int64_t rows, Workspace<Real>& memory) const;

  std::vector<Layer> layers_;
  bool bfloat16_;
  std::vector<Kept> kept_;
  std::int64_t widest_ = 0, batch_ = -1, a_width_ = 0;  // the last two of the latest forward
  Workspace<Real> input_, joined_, rows_[2], gradient_[2], narrow_;
};

}  // namespace pyrl::nn
