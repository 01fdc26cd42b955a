// The product at each SIMD level; `multiply` of product.hpp chooses.
#pragma once

#include "nn/product.hpp"

namespace pyrl::nn {

// `packed` is scratch of `packed_size(depth)` numbers.
constexpr std::int64_t packed_size(std::int64_t depth) { return depth * 64; }

namespace portable { template <class Real> void multiply(const Product<Real>& product, Real* packed); }
namespace avx2 { template <class Real> void multiply(const Product<Real>& product, Real* packed); }
namespace avx512 { template <class Real> void multiply(const Product<Real>& product, Real* packed); }

}  // namespace pyrl::nn
