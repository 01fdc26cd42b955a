#include "nn/product.hpp"

#include <algorithm>

#include "core/parallel.hpp"
#include "core/platform.hpp"
#include "nn/product_bfloat16.hpp"
#include "nn/product_levels.hpp"
#include "nn/workspace.hpp"

namespace pyrl::nn {
namespace {

// Two threads from a million multiply-adds on, about 20 us of work: handing over half of it costs 2.
constexpr std::int64_t multiply_adds_a_thread = 500'000;

template <class Real>
void multiply_rows(const Product<Real>& product) {
  if constexpr (sizeof(Real) == sizeof(float))
    if (product.bfloat16) return bfloat16::multiply(product);
  thread_local Workspace<Real> scratch;
  Real* const packed = scratch.reserve(packed_size(product.depth));
#if PYRL_X86
  switch (simd::level()) {
    case simd::Level::Avx512:
      // Half of a wide vector would multiply nothing.
      if (product.columns * sizeof(Real) <= 32 && !is_narrow(product)) return avx2::multiply(product, packed);
      return avx512::multiply(product, packed);
    case simd::Level::Avx2: return avx2::multiply(product, packed);
    case simd::Level::Portable: break;
  }
#endif
  portable::multiply(product, packed);
}

// Decided for all rows, so that threads, which get some of them, change nothing.
bool rounds(const Product<float>& product) { return product.bfloat16 && bfloat16::pays(product) && bfloat16::available(); }
bool rounds(const Product<double>&) { return false; }

}  // namespace

template <class Real>
void multiply(const Product<Real>& wanted) {
  Product<Real> product = wanted;
  product.bfloat16 = rounds(wanted);
  const std::int64_t row_cost = std::max<std::int64_t>(1, product.columns * product.depth / (product.bfloat16 ? 6 : 1));
  const std::int64_t grain = std::max<std::int64_t>(1, multiply_adds_a_thread / row_cost);
  if (product.rows < 2 * grain) return multiply_rows(product);
  parallel_for(product.rows, grain, [&](std::int64_t begin, std::int64_t end) {
    Product<Real> part = product;
    part.rows = end - begin;
    part.a += begin * product.a_row;
    part.c += begin * product.c_row;
    if (part.seen != nullptr) part.seen += begin * product.c_row;
    multiply_rows(part);
  });
}

template <class Real>
void transpose(const Real* from, std::int64_t rows, std::int64_t columns, Real* to) {
#if PYRL_X86
  switch (simd::level()) {
    case simd::Level::Avx512: return avx512::transpose(from, columns, rows, columns, to, rows);
    case simd::Level::Avx2: return avx2::transpose(from, columns, rows, columns, to, rows);
    case simd::Level::Portable: break;
  }
#endif
  portable::transpose(from, columns, rows, columns, to, rows);
}

template void multiply<float>(const Product<float>&);
template void multiply<double>(const Product<double>&);
template void transpose<float>(const float*, std::int64_t, std::int64_t, float*);
template void transpose<double>(const double*, std::int64_t, std::int64_t, double*);

}  // namespace pyrl::nn
