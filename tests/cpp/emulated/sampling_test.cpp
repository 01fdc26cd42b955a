// The samplers' CUDA twins on the emulated GPU: the CPU's bits.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "gpu.hpp"
#include "sampling/categorical.hpp"
#include "sampling/gaussian.hpp"
#include "sampling/parallel_shuffle.hpp"
#include "sampling/permutation.hpp"
#include "sampling/running_moments.hpp"
#include "sampling/take_rows.hpp"
#include "sampling/uniform_indices.hpp"

using namespace pyrl;
using namespace pyrl::sampling;

namespace {

constexpr std::uint64_t key = 0x0123456789ABCDEFull;

std::vector<std::int64_t> space_for(std::int64_t count) { return std::vector<std::int64_t>(static_cast<std::size_t>(Moves::bytes(count) + 7) / 8, 5); }

std::vector<float> numbers(std::int64_t count, std::uint64_t draw, float scale) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i)
    values[static_cast<std::size_t>(i)] = scale * (uniform_float(philox(3, draw, static_cast<std::uint32_t>(i), 0)[0]) - 0.5f);
  return values;
}

}  // namespace

TEST_CASE("CUDA: permutations found entry by entry are the CPU's") {
  for (std::int64_t n : {0, 1, 2, 3, 5, 64, 1000, 65537})
    for (std::uint64_t draw : {0, 1, 2}) {
      CAPTURE(n);
      std::vector<std::int64_t> want(static_cast<std::size_t>(n)), got(want.size());
      permutation({{want.data(), {n}}, {key, draw}});
      permutation_cuda({{got.data(), {n}}, {key, draw}}, space_for(n).data(), gpu);
      CHECK(got == want);
    }
}

TEST_CASE("CUDA: distinct indices found one by one are the CPU's") {
  for (std::int64_t count : {0, 1, 2, 3, 64, 1000, 20001})
    for (std::uint64_t more : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{100}, std::uint64_t{100000}, std::uint64_t{1} << 62}) {
      CAPTURE(count);
      CAPTURE(more);
      const std::uint64_t high = std::max<std::uint64_t>(1, static_cast<std::uint64_t>(count) + more);
      std::vector<std::int64_t> want(static_cast<std::size_t>(count)), got(want.size());
      distinct_indices({{want.data(), {count}}, high, {key, 5}});
      distinct_indices_cuda({{got.data(), {count}}, high, {key, 5}}, space_for(count).data(), gpu);
      CHECK(got == want);
    }
}

TEST_CASE("CUDA: uniform indices drawn in pairs are the CPU's") {
  for (std::int64_t count : {0, 1, 2, 31, 1001})
    for (std::uint64_t high : {std::uint64_t{1}, std::uint64_t{7}, (std::uint64_t{1} << 63) - 1}) {
      std::vector<std::int64_t> want(static_cast<std::size_t>(count)), got(want.size());
      uniform_indices({{want.data(), {count}}, high, {key, 9}});
      uniform_indices_cuda({{got.data(), {count}}, high, {key, 9}}, gpu);
      CHECK(got == want);
    }
}

TEST_CASE("CUDA: a draw found in memory is the same draw") {
  const RandomStream memory{key, 11};
  for (const DrawSource& random : {DrawSource{key, 11}, DrawSource{0, 0, &memory}}) {
    std::vector<std::int64_t> want(101), got(101);
    uniform_indices({{want.data(), {101}}, 1000, {key, 11}});
    uniform_indices_cuda({{got.data(), {101}}, 1000, random}, gpu);
    CHECK(got == want);
    permutation({{want.data(), {101}}, {key, 11}});
    permutation_cuda({{got.data(), {101}}, random}, space_for(101).data(), gpu);
    CHECK(got == want);
  }
}

TEST_CASE("CUDA: a categorical row by itself has the CPU's bits") {
  const std::vector<std::vector<std::int64_t>> cases = {{1}, {4}, {18}, {3, 5, 2}, {200, 7}};
  for (const auto& nvec : cases)
    for (bool masked : {false, true})
      for (bool deterministic : {false, true}) {
        const std::int64_t batch = 37, components = static_cast<std::int64_t>(nvec.size());
        std::int64_t columns = 0;
        for (const std::int64_t n : nvec) columns += n;
        auto logits = numbers(batch * columns, 1, 8);
        const auto coins = numbers(batch * columns, 2, 1);
        std::vector<std::uint8_t> mask(logits.size(), 1);
        for (std::size_t i = 0; i < mask.size(); ++i) mask[i] = coins[i] < 0.2f || i % static_cast<std::size_t>(columns) == 0 ? 2 : 0;
        std::int64_t begin = 0;
        for (const std::int64_t n : nvec) {
          for (std::int64_t row = 0; row < batch; ++row) mask[static_cast<std::size_t>(row * columns + begin)] = 1;
          begin += n;
        }
        for (std::size_t i = 0; masked && i < mask.size(); ++i)
          if (mask[i] == 0) logits[i] = std::numeric_limits<float>::quiet_NaN();
        std::vector<std::int64_t> want(static_cast<std::size_t>(batch * components)), got(want.size());
        std::vector<float> want_log_prob(static_cast<std::size_t>(batch)), got_log_prob(want_log_prob.size());
        CategoricalArgs args{"test", {logits.data(), {batch, columns}}, {}, {nvec.data(), {components}}, {want.data(), {batch, components}},
                             {want_log_prob.data(), {batch}}, {key, 3}, deterministic};
        if (masked) args.mask = {reinterpret_cast<const bool*>(mask.data()), {batch, columns}};
        sample_categorical(args);
        args.action.data = got.data();
        args.log_prob.data = got_log_prob.data();
        sample_categorical_cuda(args, gpu);
        CHECK(got == want);
        CHECK(same_bits(got_log_prob, want_log_prob));
      }
}

TEST_CASE("CUDA: a categorical row that the CPU refuses gets action -1 and log_prob NaN") {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const std::int64_t nvec[] = {2, 2};
  const float logits[] = {0, 1, nan, 0, /**/ infinity, 0, 0, 1, /**/ -infinity, -infinity, -infinity, 0, /**/ 0, 1, 2, 3};
  std::int64_t action[8];
  float log_prob[4];
  sample_categorical_cuda({"test", {logits, {4, 4}}, {}, {nvec, {2}}, {action, {4, 2}}, {log_prob, {4}}, {key, 0}, true}, gpu);
  const std::int64_t want[] = {1, -1, -1, 1, -1, 1, 1, 1};
  for (int i = 0; i < 8; ++i) CHECK(action[i] == want[i]);
  for (int row = 0; row < 4; ++row) CHECK(std::isnan(log_prob[row]) == (row < 3));
}

TEST_CASE("CUDA: a Gaussian row by itself has the CPU's bits") {
  for (std::int64_t dimensions : {0, 1, 2, 3, 4, 6, 17, 21})
    for (bool shared : {false, true})
      for (bool deterministic : {false, true}) {
        const std::int64_t batch = 35;
        const auto mean = numbers(batch * dimensions, 1, 4), log_std = numbers(batch * dimensions, 2, 6);
        std::vector<float> want(mean.size()), got(mean.size()), want_log_prob(static_cast<std::size_t>(batch)), got_log_prob(want_log_prob.size());
        GaussianArgs args{{mean.data(), {batch, dimensions}}, {log_std.data(), {shared ? 1 : batch, dimensions}},
                          {want.data(), {batch, dimensions}}, {want_log_prob.data(), {batch}}, {key, 3}, deterministic};
        sample_gaussian(args);
        args.action.data = got.data();
        args.log_prob.data = got_log_prob.data();
        sample_gaussian_cuda(args, gpu);
        CHECK(same_bits(got, want));
        CHECK(same_bits(got_log_prob, want_log_prob));
      }
}

TEST_CASE("CUDA: a Gaussian row that the CPU refuses gets NaN") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float mean[] = {0, nan, /**/ 0, 0, /**/ 1, 2}, log_std[] = {0, 0, /**/ 0, 81, /**/ -1, 80};
  float action[6], log_prob[3];
  sample_gaussian_cuda({{mean, {3, 2}}, {log_std, {3, 2}}, {action, {3, 2}}, {log_prob, {3}}, {key, 0}, true}, gpu);
  for (int i = 0; i < 6; ++i) CHECK(std::isnan(action[i]) == (i == 1 || i == 3));
  for (int row = 0; row < 3; ++row) CHECK(std::isnan(log_prob[row]) == (row < 2));
}

TEST_CASE("CUDA: moments of slices, merged, are the CPU's; normalising has its bits") {
  for (std::int64_t columns : {1, 4, 17, 300})
    for (std::int64_t rows : {1, 7, 8, 9, 1000}) {
      CAPTURE(columns);
      CAPTURE(rows);
      const auto batch = numbers(rows * columns, 4, 10);
      const ArrayView<const float, 2> view{batch.data(), {rows, columns}};
      const auto size = static_cast<std::size_t>(columns);
      std::vector<double> mean(size, 0.25), m2(size, 3), want_mean = mean, want_m2 = m2;
      std::int64_t want_count = 10;
      const Moments want{&want_count, {want_mean.data(), {columns}}, {want_m2.data(), {columns}}};
      update_moments(view, want);
      std::vector<double> space(static_cast<std::size_t>(moments_space(rows, columns)) / sizeof(double));
      std::int64_t count = 10;
      const Moments got{&count, {mean.data(), {columns}}, {m2.data(), {columns}}};
      update_moments_cuda(view, got, space.data(), gpu);
      CHECK(count == want_count);
      for (std::int64_t column = 0; column < columns; ++column) {
        CHECK(got.mean(column) == doctest::Approx(want.mean(column)).epsilon(1e-12));
        CHECK(got.m2(column) == doctest::Approx(want.m2(column)).epsilon(1e-12));
      }
      std::vector<float> got_out(batch.size()), want_out(batch.size());
      NormalizeArgs<float> args{view, {want_out.data(), {rows, columns}}, want, 2.0, 1e-8, true};
      normalize(args);
      args.out.data = got_out.data();
      normalize_cuda(args, gpu);
      CHECK(same_bits(got_out, want_out));
    }
}

TEST_CASE("CUDA: rows taken word by word are the CPU's, and those that are missing show") {
  constexpr std::int64_t rows = 23, taken = 40;
  for (bool out_of_range : {false, true}) {
    // Rows and addresses that permit words of 16, of 4 and of 1 byte, and rows without a byte.
    std::vector<std::vector<std::uint8_t>> from, want, got;
    std::vector<RowsColumn> columns;
    for (std::int64_t row_bytes : {1, 3, 4, 16, 0, 28, 32, 7056, 16, 4})
      for (std::int64_t shift : {0, 4, 1}) {
        from.emplace_back(static_cast<std::size_t>(rows * row_bytes + shift + 1));
        for (std::size_t i = 0; i < from.back().size(); ++i)
          from.back()[i] = static_cast<std::uint8_t>(philox(1, columns.size(), static_cast<std::uint32_t>(i), 0)[0]);
        want.emplace_back(static_cast<std::size_t>(taken * row_bytes + shift + 1), std::uint8_t{7});
        got.push_back(want.back());
        const std::uint8_t missing = columns.size() % 2 == 0 ? 0xff : 0;
        columns.push_back({from.back().data() + shift, want.back().data() + shift, row_bytes, missing});
      }
    std::vector<std::int64_t> index(taken);
    for (std::int64_t i = 0; i < taken; ++i) index[static_cast<std::size_t>(i)] = 7 * i % rows;
    const ArrayView<const std::int64_t, 1> view{index.data(), {taken}};
    take_rows({columns.data(), {static_cast<std::int64_t>(columns.size())}}, view);
    if (out_of_range) {
      index[3] = -1;
      index[5] = rows;
      index[39] = std::numeric_limits<std::int64_t>::min();
    }
    for (std::size_t c = 0; c < columns.size(); ++c) {
      const std::int64_t bytes = columns[c].row_bytes;
      for (std::int64_t i = 0; i < taken; ++i)
        if (view(i) < 0 || view(i) >= rows) std::memset(columns[c].to + i * bytes, columns[c].missing, static_cast<std::size_t>(bytes));
      columns[c].to = got[c].data() + (columns[c].to - want[c].data());
    }
    take_rows_cuda({columns.data(), {static_cast<std::int64_t>(columns.size())}}, view, rows, gpu);
    CHECK(got == want);
  }
}
