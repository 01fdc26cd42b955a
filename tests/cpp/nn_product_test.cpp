#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#include "core/parallel.hpp"
#include "core/philox.hpp"
#include "core/platform.hpp"
#include "nn/network.hpp"
#include "nn/product.hpp"
#include "nn/product_bfloat16.hpp"

using namespace pyrl;
using namespace pyrl::nn;

namespace {

// A matrix in an allocation of its exact size, so that AddressSanitizer sees a read or write one element beyond.
template <class Real>
struct Matrix {
  std::int64_t rows, columns;
  std::unique_ptr<Real[]> data;

  Matrix(std::int64_t m, std::int64_t n) : rows(m), columns(n), data(std::make_unique<Real[]>(static_cast<std::size_t>(m * n))) {}
  Real& operator()(std::int64_t i, std::int64_t j) const { return data[static_cast<std::size_t>(i * columns + j)]; }
  std::vector<Real> copy() const { return {data.get(), data.get() + rows * columns}; }
};

// Small whole numbers, so that every sum is exact, whatever its order.
template <class Real>
Matrix<Real> whole_numbers(std::int64_t rows, std::int64_t columns, std::uint32_t seed) {
  Matrix<Real> matrix(rows, columns);
  for (std::int64_t i = 0; i < rows * columns; ++i)
    matrix.data[static_cast<std::size_t>(i)] = static_cast<Real>(static_cast<int>(philox(seed, 0, static_cast<std::uint32_t>(i), 0)[0] % 17) - 8);
  return matrix;
}

template <class Real>
Matrix<Real> transposed(const Matrix<Real>& from) {
  Matrix<Real> to(from.columns, from.rows);
  for (std::int64_t i = 0; i < from.rows; ++i)
    for (std::int64_t j = 0; j < from.columns; ++j) to(j, i) = from(i, j);
  return to;
}

template <class Body>
void at_every_level(const Body& body) {
  const auto before = simd::level();
  for (auto level : {simd::Level::Portable, simd::Level::Avx2, simd::Level::Avx512}) {
    if (level > simd::supported()) continue;
    simd::set_level(level);
    CAPTURE(static_cast<int>(level));
    body();
  }
  simd::set_level(before);
}

// C = init + A B, with A and B as they are and transposed, and C inside a wider matrix whose other columns stay.
template <class Real>
void check_product(std::int64_t rows, std::int64_t columns, std::int64_t depth, bool rounded = false) {
  CAPTURE(rows);
  CAPTURE(columns);
  CAPTURE(depth);
  const auto a = whole_numbers<Real>(rows, depth, 1), b = whole_numbers<Real>(depth, columns, 2), init = whole_numbers<Real>(1, columns, 3);
  const auto a_across = transposed(a), b_across = transposed(b);
  Matrix<Real> expected(rows, columns);
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < columns; ++j)
      for (std::int64_t p = 0; p < depth; ++p) expected(i, j) += a(i, p) * b(p, j);
  for (int variant = 0; variant < 16; ++variant) {
    CAPTURE(variant);
    const bool a_turned = (variant & 1) != 0, b_turned = (variant & 2) != 0, with_init = (variant & 4) != 0;
    const std::int64_t wide = columns + ((variant & 8) != 0 ? 3 : 0);
    Matrix<Real> c(rows, wide);
    std::fill_n(c.data.get(), rows * wide, Real(1000));
    multiply<Real>({.rows = rows, .columns = columns, .depth = depth,
                    .a = a_turned ? a_across.data.get() : a.data.get(), .a_row = a_turned ? 1 : depth, .a_step = a_turned ? rows : 1,
                    .b = b_turned ? b_across.data.get() : b.data.get(), .b_row = b_turned ? depth : columns, .b_transposed = b_turned,
                    .init = with_init ? init.data.get() : nullptr, .c = c.data.get(), .c_row = wide, .bfloat16 = rounded});
    bool right = true;
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < wide; ++j) {
        const Real value = j >= columns ? Real(1000) : expected(i, j) + (with_init ? init(0, j) : Real(0));
        right = right && c(i, j) == value;
      }
    CHECK(right);
  }
}

}  // namespace

TEST_CASE_TEMPLATE("a product is the sum of products, at every size and level", Real, float, double) {
  at_every_level([] {
    for (std::int64_t columns : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 47, 64, 65, 100, 129})
      for (std::int64_t rows : {0, 1, 2, 3, 5, 7, 11, 13, 25, 49})
        for (std::int64_t depth : {0, 1, 2, 9, 16, 37}) check_product<Real>(rows, columns, depth);
  });
}

TEST_CASE_TEMPLATE("a product with long rows goes through packed panels", Real, float, double) {
  at_every_level([] { check_product<Real>(70, 270, 131); });
}

// Whole numbers up to 8 are exact in bfloat16, and so are their sums in float.
TEST_CASE("a product in bfloat16 is that of the rounded factors") {
  for (const std::int64_t columns : {32, 33, 47, 64, 100, 129})
    for (const std::int64_t rows : {32, 49, 64, 95})
      for (const std::int64_t depth : {32, 37, 63, 64, 130}) check_product<float>(rows, columns, depth, true);
  if (!bfloat16::available()) return;
  constexpr std::int64_t size = 40;
  Matrix<float> a(size, size), b(size, size), c(size, size);
  for (std::int64_t i = 0; i < size * size; ++i) a.data[static_cast<std::size_t>(i)] = 1.0f + 1.0f / 512, b.data[static_cast<std::size_t>(i)] = 1;
  const Product<float> product{.rows = size, .columns = size, .depth = size, .a = a.data.get(), .a_row = size, .b = b.data.get(), .b_row = size,
                               .c = c.data.get(), .c_row = size, .bfloat16 = true};
  multiply(product);
  for (std::int64_t i = 0; i < size * size; ++i) CHECK(c.data[static_cast<std::size_t>(i)] == size);  // 1 + 1/512 rounds to 1
  std::vector<std::vector<float>> seen;
  Matrix<float> big(900, 300), other(300, 270), result(900, 270);
  for (std::int64_t i = 0; i < 900 * 300; ++i) big.data[static_cast<std::size_t>(i)] = std::sin(static_cast<float>(i));
  for (std::int64_t i = 0; i < 300 * 270; ++i) other.data[static_cast<std::size_t>(i)] = std::cos(static_cast<float>(i));
  for (int threads : {1, 2, 3}) {
    set_num_threads(threads);
    multiply<float>({.rows = 900, .columns = 270, .depth = 300, .a = big.data.get(), .a_row = 300, .b = other.data.get(), .b_row = 270,
                     .c = result.data.get(), .c_row = 270, .bfloat16 = true});
    seen.push_back(result.copy());
  }
  set_num_threads(0);
  CHECK(seen[0] == seen[1]);
  CHECK(seen[0] == seen[2]);
}

TEST_CASE_TEMPLATE("what finishes a product is what a pass over it would do", Real, float, double) {
  constexpr std::int64_t rows = 37, depth = 33;
  const Real nan = std::numeric_limits<Real>::quiet_NaN();
  at_every_level([&] {
    for (const std::int64_t columns : {1, 2, 3, 5, 16, 21, 70, 129}) {
      CAPTURE(columns);
      const bool rounded = columns == 70;
      auto a = whole_numbers<Real>(rows, depth, 1), seen = whole_numbers<Real>(rows, columns + 2, 4);
      const auto b = whole_numbers<Real>(depth, columns, 2);
      a(4, 3) = nan;
      for (const Finish finish : {Finish::Relu, Finish::ReluGate, Finish::TanhGate}) {
        Matrix<Real> plain(rows, columns + 2), c(rows, columns + 2);
        Product<Real> product{.rows = rows, .columns = columns, .depth = depth, .a = a.data.get(), .a_row = depth, .b = b.data.get(),
                              .b_row = columns, .c = plain.data.get(), .c_row = columns + 2, .bfloat16 = rounded};
        multiply(product);
        product.c = c.data.get(), product.finish = finish, product.seen = finish == Finish::Relu ? nullptr : seen.data.get();
        multiply(product);
        for (std::int64_t i = 0; i < rows; ++i)
          for (std::int64_t j = 0; j < columns + 2; ++j) {
            const Real x = plain(i, j), y = seen(i, j);
            const Real expected = j >= columns ? Real(0) : finish == Finish::Relu ? (x < 0 ? Real(0) : x)
                                : finish == Finish::ReluGate ? (y <= 0 ? Real(0) : x) : x * (1 - y * y);
            CHECK((c(i, j) == expected || (std::isnan(c(i, j)) && std::isnan(expected))));
          }
      }
    }
  });
}

TEST_CASE_TEMPLATE("a product is the same to the bit on any number of threads", Real, float, double) {
  constexpr std::int64_t rows = 419, columns = 301, depth = 203;
  Matrix<Real> a(rows, depth), b(depth, columns), c(rows, columns);
  for (std::int64_t i = 0; i < rows * depth; ++i) a.data[static_cast<std::size_t>(i)] = std::sin(static_cast<Real>(i));
  for (std::int64_t i = 0; i < depth * columns; ++i) b.data[static_cast<std::size_t>(i)] = std::cos(static_cast<Real>(3 * i));
  at_every_level([&] {
    for (const std::int64_t used : {columns, std::int64_t{3}}) {
      std::vector<std::vector<Real>> seen;
      for (int threads : {1, 2, 4}) {
        set_num_threads(threads);
        multiply<Real>({.rows = rows, .columns = used, .depth = depth, .a = a.data.get(), .a_row = depth, .b = b.data.get(), .b_row = columns,
                        .c = c.data.get(), .c_row = columns});
        seen.push_back(c.copy());
      }
      CHECK(seen[0] == seen[1]);
      CHECK(seen[0] == seen[2]);
    }
  });
  set_num_threads(0);
}

TEST_CASE_TEMPLATE("a number that is not finite stays in its row and column", Real, float, double) {
  at_every_level([] {
    for (std::int64_t columns : {1, 3, 20}) {
      auto a = whole_numbers<Real>(9, 21, 1);
      const auto b = whole_numbers<Real>(21, columns, 2);
      a(4, 20) = std::numeric_limits<Real>::quiet_NaN();
      Matrix<Real> c(9, columns);
      multiply<Real>({.rows = 9, .columns = columns, .depth = 21, .a = a.data.get(), .a_row = 21, .b = b.data.get(), .b_row = columns,
                      .c = c.data.get(), .c_row = columns});
      for (std::int64_t i = 0; i < 9; ++i)
        for (std::int64_t j = 0; j < columns; ++j) CHECK(std::isnan(c(i, j)) == (i == 4));
    }
  });
}

TEST_CASE_TEMPLATE("a transpose, at every size and level", Real, float, double) {
  at_every_level([] {
    for (std::int64_t rows : {0, 1, 2, 3, 4, 5, 8, 15, 16, 17, 20, 37, 64})
      for (std::int64_t columns : {0, 1, 2, 3, 4, 7, 8, 16, 19, 33, 48}) {
        const auto from = whole_numbers<Real>(rows, columns, 4);
        Matrix<Real> to(columns, rows);
        transpose(from.data.get(), rows, columns, to.data.get());
        CAPTURE(rows);
        CAPTURE(columns);
        CHECK(to.copy() == transposed(from).copy());
      }
  });
}

TEST_CASE_TEMPLATE("a network's gradient is its slope", Real, double) {
  // Two inputs, every activation, two norms; against differences of the output along random directions.
  const std::vector<Layer> layers = {
      {.in = 5, .out = 9, .weight = 0, .bias = 48, .gain = 64, .shift = 80, .activation = Activation::Tanh},
      {.in = 9, .out = 17, .weight = 96, .bias = 256, .activation = Activation::Silu},
      {.in = 17, .out = 6, .weight = 280, .gain = 400, .shift = 408, .activation = Activation::Gelu},
      {.in = 6, .out = 2, .weight = 416, .bias = 430},
  };
  constexpr std::int64_t size = 432, batch = 7;
  Matrix<Real> parameters(1, size), direction(1, size), a(batch, 2), b(batch, 3), dy(batch, 2), y(batch, 2), gradients(1, size), da(batch, 2), db(batch, 3);
  std::uint32_t seed = 5;
  for (const auto* matrix : {&parameters, &direction, &a, &b, &dy}) {
    ++seed;
    for (std::int64_t i = 0; i < matrix->rows * matrix->columns; ++i)
      matrix->data[static_cast<std::size_t>(i)] = static_cast<Real>(uniform_float(philox(seed, 0, static_cast<std::uint32_t>(i), 0)[0])) - Real(0.5);
  }
  at_every_level([&] {
    Network<Real> network(layers);
    const auto value = [&](Real shift) {
      Matrix<Real> moved(1, size), moved_a(batch, 2);
      for (std::int64_t i = 0; i < size; ++i) moved(0, i) = parameters(0, i) + shift * direction(0, i);
      for (std::int64_t i = 0; i < batch; ++i)
        for (std::int64_t j = 0; j < 2; ++j) moved_a(i, j) = a(i, j) + shift;
      network.infer(moved.data.get(), {moved_a.data.get(), 2, b.data.get(), 3}, batch, y.data.get());
      Real sum = 0;
      for (std::int64_t i = 0; i < batch * 2; ++i) sum += y.data[static_cast<std::size_t>(i)] * dy.data[static_cast<std::size_t>(i)];
      return sum;
    };
    network.forward(parameters.data.get(), {a.data.get(), 2, b.data.get(), 3}, batch, y.data.get());
    network.backward(parameters.data.get(), gradients.data.get(), dy.data.get(), da.data.get(), db.data.get());
    Real slope = 0;
    for (std::int64_t i = 0; i < size; ++i) slope += gradients(0, i) * direction(0, i);
    for (std::int64_t i = 0; i < batch * 2; ++i) slope += da.data[static_cast<std::size_t>(i)];
    constexpr Real step = 1e-5;
    CHECK((value(step) - value(-step)) / (2 * step) == doctest::Approx(slope).epsilon(1e-7));
  });
}
