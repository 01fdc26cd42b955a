// The product at each SIMD level; `multiply` of product.hpp chooses.
#pragma once

#include "nn/product.hpp"

namespace pyrl::nn {

// `packed` is scratch of `packed_size(depth)` numbers.
constexpr std::int64_t packed_size(std::int64_t depth) { return depth * 64; }

// Summed along vectors rather than across them.
template <class Real>
constexpr bool is_narrow(const Product<Real>& p) { return p.columns <= 4 && p.a_step == 1; }

namespace portable {
template <class Real> void multiply(const Product<Real>& product, Real* packed);
template <class Real> void transpose(const Real* from, std::int64_t from_row, std::int64_t rows, std::int64_t columns, Real* to, std::int64_t to_row);
}  // namespace portable
namespace avx2 {
template <class Real> void multiply(const Product<Real>& product, Real* packed);
template <class Real> void transpose(const Real* from, std::int64_t from_row, std::int64_t rows, std::int64_t columns, Real* to, std::int64_t to_row);
}  // namespace avx2
namespace avx512 {
template <class Real> void multiply(const Product<Real>& product, Real* packed);
template <class Real> void transpose(const Real* from, std::int64_t from_row, std::int64_t rows, std::int64_t columns, Real* to, std::int64_t to_row);
}  // namespace avx512

}  // namespace pyrl::nn
