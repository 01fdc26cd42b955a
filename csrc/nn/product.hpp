// The one matrix product, in float and double: C = init + A B.
//
//   c[i, j] = init[j] + sum over p of a[i, p] b[p, j]        i < M, j < N, p < P, summed in the order of p
//
// A has any strides, B may be given as its transpose, and B and C have rows of their own length. Forward: Y = X W + bias, gradient
// w.r.t. weights: X^T dY, gradient w.r.t. inputs: dY W^T. C may overlap nothing.
//
// `finish` is done to each c[i, j] while it is in a register: an activation, or the derivative of the one before (which saves a pass
// over memory).
//
// A tile of C stays in registers over the whole sum: rows x vectors as the register file allows (AVX-512: 6 x 4). Fused
// multiply-adds where the level has them, so levels differ in the last bits; the split into tiles or rows changes nothing.
// Cost: M N P multiply-adds; floor on Zen 4 at 512 bits: 16 a cycle (float).
#pragma once

#include <cstdint>

namespace pyrl::nn {

enum class Finish : std::uint8_t {
  None,
  Relu,      // c < 0 ? 0 : c
  ReluGate,  // seen <= 0 ? 0 : c
  TanhGate,  // c (1 - seen^2)
};

template <class Real>
struct Product {
  std::int64_t rows = 0, columns = 0, depth = 0;   // M, N, P
  const Real* a = nullptr;
  std::int64_t a_row = 0, a_step = 1;              // a[i, p] = a[i * a_row + p * a_step]
  const Real* b = nullptr;                         // b[p, j] = b[p * b_row + j],
  std::int64_t b_row = 0;
  bool b_transposed = false;                       // or b[j * b_row + p]
  const Real* init = nullptr;                      // [N]; null: zero
  Real* c = nullptr;
  std::int64_t c_row = 0;
  Finish finish = Finish::None;
  const Real* seen = nullptr;                      // seen[i * c_row + j], of the gates
  bool bfloat16 = false;                           // A and B may be rounded to it (product_bfloat16.hpp), where that is faster
};

// Uses threads where they pay; they share the rows of C.
template <class Real>
void multiply(const Product<Real>& product);

// to[j, i] = from[i, j] of a matrix [rows, columns].
template <class Real>
void transpose(const Real* from, std::int64_t rows, std::int64_t columns, Real* to);

}  // namespace pyrl::nn
