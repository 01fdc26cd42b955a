#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <vector>

#include "core/check.hpp"
#include "core/parallel.hpp"
#include "core/platform.hpp"
#include "sampling/categorical.hpp"
#include "sampling/gaussian.hpp"
#include "sampling/permutation.hpp"
#include "sampling/running_moments.hpp"
#include "sampling/uniform_indices.hpp"

using namespace pyrl;
using namespace pyrl::sampling;

namespace {

// Every array is an allocation of its exact size, so that AddressSanitizer sees a read or write one element beyond.
template <class T>
class Array {
 public:
  explicit Array(std::int64_t size) : data_(std::make_unique<T[]>(static_cast<std::size_t>(size))), size_(size) {}
  T* data() const { return data_.get(); }
  std::int64_t size() const { return size_; }
  T& operator[](std::int64_t i) const { return data_[static_cast<std::size_t>(i)]; }
  std::vector<T> copy() const { return {data(), data() + size_}; }

 private:
  std::unique_ptr<T[]> data_;
  std::int64_t size_;
};

Array<float> numbers(std::int64_t size, float scale = 4) {
  Array<float> array(size);
  for (std::int64_t i = 0; i < size; ++i) array[i] = scale * (uniform_float(philox(11, 0, static_cast<std::uint32_t>(i), 0)[0]) - 0.5f);
  return array;
}

// Runs `body` for every instruction set and thread count; `result` must be the same each time, to the bit.
template <class Body, class Result>
void check_same_everywhere(const Body& body, const Result& result) {
  const auto before = simd::level();
  std::vector<decltype(result())> seen;
  for (auto level : {simd::Level::Portable, simd::Level::Avx2, simd::Level::Avx512})
    for (int threads : {1, 2, 4}) {
      simd::set_level(level);
      set_num_threads(threads);
      body();
      seen.push_back(result());
    }
  simd::set_level(before);
  set_num_threads(0);
  if (seen[0].empty()) return;
  for (const auto& other : seen) CHECK(std::memcmp(other.data(), seen[0].data(), seen[0].size() * sizeof seen[0][0]) == 0);
}

struct Categorical {
  Array<float> logits;
  Array<bool> mask;
  std::vector<std::int64_t> nvec;
  Array<std::int64_t> action;
  Array<float> log_prob;
  CategoricalArgs args;

  Categorical(std::int64_t batch, std::vector<std::int64_t> sizes, bool masked)
      : logits(numbers(batch * std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0}))),
        mask(masked ? logits.size() : 0),
        nvec(std::move(sizes)),
        action(batch * static_cast<std::int64_t>(nvec.size())),
        log_prob(batch) {
    const std::int64_t columns = std::accumulate(nvec.begin(), nvec.end(), std::int64_t{0});
    for (std::int64_t i = 0; i < mask.size(); ++i) mask[i] = i % 3 != 0 || columns < 3;
    args.logits = {logits.data(), {batch, columns}};
    if (masked) args.mask = {mask.data(), {batch, columns}};
    args.nvec = {nvec.data(), {static_cast<std::int64_t>(nvec.size())}};
    args.action = {action.data(), {batch, static_cast<std::int64_t>(nvec.size())}};
    args.log_prob = {log_prob.data(), {batch}};
    args.random.key = 5;
  }
};

}  // namespace

TEST_CASE("uniform indices stay below their bound and are the same everywhere") {
  for (std::int64_t size : {0, 1, 31, 32, 33, 50000})
    for (std::uint64_t high : {std::uint64_t{1}, std::uint64_t{10}, std::uint64_t{1} << 63}) {
      Array<std::int64_t> index(size);
      const UniformIndicesArgs args{{index.data(), {size}}, high, {3, 4}};
      check_same_everywhere([&] { uniform_indices(args); }, [&] { return index.copy(); });
      for (const std::int64_t i : index.copy()) CHECK(static_cast<std::uint64_t>(i) < high);
    }
}

TEST_CASE("distinct indices are distinct, whichever table keeps them") {
  for (std::int64_t size : {0, 1, 5, 64, 1000})
    for (std::int64_t high : {size, size + 1, 4 * size, 4 * size + 1, 100000 * size + 7}) {
      Array<std::int64_t> index(size);
      distinct_indices({{index.data(), {size}}, static_cast<std::uint64_t>(high), 3, 4});
      auto sorted = index.copy();
      std::sort(sorted.begin(), sorted.end());
      CHECK(std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end());
      CHECK(std::all_of(sorted.begin(), sorted.end(), [&](std::int64_t i) { return i >= 0 && i < high; }));
    }
  Array<std::int64_t> index(3);
  CHECK_THROWS_AS(distinct_indices({{index.data(), {3}}, 2, 0, 0}), ArgumentError);
}

TEST_CASE("words that would favour some values are refused") {
  // With n = 3 2^62 a quarter of all words is refused, and the values stay uniform.
  constexpr std::uint64_t n = std::uint64_t{3} << 62;
  int refused = 0;
  std::array<int, 3> counts{};
  for (std::uint32_t i = 0; i < 30000; ++i) {
    const auto words = philox(1, 2, i >> 1, 0);
    const std::uint32_t high = words[2 * (i & 1)], low = words[2 * (i & 1) + 1];
    refused += !accepted(high, low, n);
    ++counts[index_below(high, low, n, 1, 2, i) >> 62];
  }
  CHECK(std::abs(refused - 7500) < 5 * std::sqrt(30000 * 0.25 * 0.75));
  for (int count : counts) CHECK(std::abs(count - 10000) < 5 * std::sqrt(30000 * 2.0 / 9));
}

TEST_CASE("shuffle targets stay in range for words that are refused") {
  for (std::uint32_t i : {0u, 1u, 2u, 5u, 1000u, 0x7fffffffu, 0xfffffffeu})
    for (std::uint32_t word : {0u, 1u, 0x80000000u, 0xffffffffu}) CHECK(shuffle_target(word, 8, 9, i) <= i);
}

TEST_CASE("a permutation holds every entry once and is the same everywhere") {
  for (std::int64_t n : {0, 1, 2, 63, 64, 65, 10000}) {
    Array<std::int64_t> out(n);
    check_same_everywhere([&] { permutation({{out.data(), {n}}, 7, 8}); }, [&] { return out.copy(); });
    auto sorted = out.copy();
    std::sort(sorted.begin(), sorted.end());
    for (std::int64_t i = 0; i < n; ++i) CHECK(sorted[static_cast<std::size_t>(i)] == i);
  }
}

TEST_CASE("categorical actions are possible ones and the same everywhere") {
  for (std::int64_t batch : {0, 1, 15, 16, 17, 1500})
    for (const auto& nvec : {std::vector<std::int64_t>{1}, {4}, {64}, {65}, {200}, {2, 3, 5}})
      for (bool masked : {false, true}) {
        Categorical c(batch, nvec, masked);
        check_same_everywhere([&] { sample_categorical(c.args); }, [&] { return c.log_prob.copy(); });
        check_same_everywhere([&] { sample_categorical(c.args); }, [&] { return c.action.copy(); });
        bool possible = true;
        for (std::int64_t b = 0; b < batch; ++b) {
          std::int64_t begin = 0;
          for (std::size_t m = 0; m < nvec.size(); begin += nvec[m++]) {
            const std::int64_t action = c.action[b * static_cast<std::int64_t>(nvec.size()) + static_cast<std::int64_t>(m)];
            possible &= action >= 0 && action < nvec[m] && (!masked || c.mask[b * c.args.logits.extent[1] + begin + action]);
          }
          possible &= c.log_prob[b] <= 0;
        }
        CHECK(possible);
      }
}

TEST_CASE("the largest uniform still draws a possible action") {
  // The threshold stays below the total, so that a running sum always exceeds it.
  for (double total : {1.0, 1.5, std::nextafter(2.0, 1.0), 3.0, 1e6, 12345.678}) CHECK(category_threshold(~0u, ~0u, total) < total);
  CHECK(category_threshold(0, 0, 5.0) == 0.0);
}

TEST_CASE("bad logits throw before anything is written") {
  Categorical c(1000, {4}, false);
  for (std::int64_t i = 0; i < 1000; ++i) c.action[i] = -1;
  c.logits[4 * 700 + 1] = std::numeric_limits<float>::quiet_NaN();
  set_num_threads(4);
  CHECK_THROWS_WITH_AS(sample_categorical(c.args), "sample_categorical: logits has nan in row 700, column 1, expected numbers or -inf",
                       ArgumentError);
  set_num_threads(0);
  for (std::int64_t i = 0; i < 1000; ++i) REQUIRE(c.action[i] == -1);
  for (std::int64_t k = 0; k < 4; ++k) c.logits[4 * 700 + k] = -std::numeric_limits<float>::infinity();
  CHECK_THROWS_WITH_AS(sample_categorical(c.args),
                       "sample_categorical: row 700 allows no action (columns 0 to 3 are -inf or masked), expected at least one",
                       ArgumentError);
}

TEST_CASE("Gaussian actions are the same everywhere, with one log_std or many") {
  for (std::int64_t batch : {0, 1, 15, 16, 17, 2000})
    for (std::int64_t size : {0, 1, 4, 6, 17, 33})
      for (bool shared : {false, true}) {
        const auto mean = numbers(batch * size), log_std = numbers(shared ? size : batch * size);
        Array<float> action(batch * size), log_prob(batch);
        GaussianArgs args{{mean.data(), {batch, size}},
                          {log_std.data(), {shared ? 1 : batch, size}},
                          {action.data(), {batch, size}},
                          {log_prob.data(), {batch}},
                          {1, 2},
                          false};
        check_same_everywhere([&] { sample_gaussian(args); }, [&] { return log_prob.copy(); });
        check_same_everywhere([&] { sample_gaussian(args); }, [&] { return action.copy(); });
        for (const float value : action.copy()) REQUIRE(std::isfinite(value));
        args.deterministic = true;
        sample_gaussian(args);
        CHECK(action.copy() == mean.copy());
      }
}

TEST_CASE("normal numbers are finite for every extreme word") {
  for (std::uint32_t radius : {0u, 1u, 0x7fffffffu, 0xfffffffeu, 0xffffffffu})
    for (std::uint32_t angle : {0u, 0x20000000u, 0x80000000u, 0xffffffffu}) {
      const NormalPair z = box_muller(radius, angle);
      CHECK(std::hypot(z.first, z.second) < 6.77);
    }
  CHECK(std::hypot(box_muller(0, 5).first, box_muller(0, 5).second) > 6.7);
}

TEST_CASE_TEMPLATE("moments equal a two-pass sum, over splits, threads and instruction sets", T, float, double) {
  for (std::int64_t columns : {1, 3, 64, 65, 256, 257, 600})
    for (std::int64_t rows : {1, 2, 63, 64, 65, 500}) {
      const auto values = numbers(rows * columns);
      Array<T> batch(rows * columns);
      for (std::int64_t i = 0; i < batch.size(); ++i) batch[i] = static_cast<T>(values[i]) + T(100);
      Array<double> mean(columns), m2(columns);
      const auto update = [&] {
        for (std::int64_t c = 0; c < columns; ++c) mean[c] = m2[c] = 0;
        std::int64_t count = 0;
        const Moments moments{&count, {mean.data(), {columns}}, {m2.data(), {columns}}};
        const std::int64_t first = rows / 3;
        update_moments(ArrayView<const T, 2>{batch.data(), {first, columns}}, moments);
        update_moments(ArrayView<const T, 2>{batch.data() + first * columns, {rows - first, columns}}, moments);
        CHECK(count == rows);
      };
      check_same_everywhere(update, [&] { return m2.copy(); });
      double worst_mean = 0, worst_m2 = 0;
      for (std::int64_t c = 0; c < columns; ++c) {
        long double sum = 0, squares = 0;
        for (std::int64_t r = 0; r < rows; ++r) sum += batch[r * columns + c];
        for (std::int64_t r = 0; r < rows; ++r) squares += (batch[r * columns + c] - sum / rows) * (batch[r * columns + c] - sum / rows);
        worst_mean = std::max(worst_mean, static_cast<double>(std::abs(mean[c] - sum / rows)));
        worst_m2 = std::max(worst_m2, static_cast<double>(std::abs(m2[c] - squares)));
      }
      CHECK(worst_mean < 1e-11);
      CHECK(worst_m2 < 1e-9);

      Array<float> out(rows * columns);
      std::int64_t count = rows;
      const Moments moments{&count, {mean.data(), {columns}}, {m2.data(), {columns}}};
      const NormalizeArgs<T> args{{batch.data(), {rows, columns}}, {out.data(), {rows, columns}}, moments, 1.25, 1e-8, true};
      check_same_everywhere([&] { normalize(args); }, [&] { return out.copy(); });
      for (std::int64_t i = 0; i < out.size(); ++i) {
        const double scaled = (batch[i] - mean[i % columns]) / std::sqrt(m2[i % columns] / static_cast<double>(rows) + 1e-8);
        REQUIRE(std::fabs(out[i] - std::clamp(scaled, -1.25, 1.25)) < 1e-6);
      }
    }
}

TEST_CASE("a batch that is not finite leaves the moments alone") {
  Array<double> mean(2), m2(2);
  std::int64_t count = 3;
  const Moments moments{&count, {mean.data(), {2}}, {m2.data(), {2}}};
  Array<float> batch(6);
  batch[5] = std::numeric_limits<float>::infinity();
  CHECK_THROWS_WITH_AS(update_moments(ArrayView<const float, 2>{batch.data(), {3, 2}}, moments),
                       "RunningMoments: batch has inf in row 2, column 1, expected finite numbers", ArgumentError);
  CHECK(count == 3);
}
