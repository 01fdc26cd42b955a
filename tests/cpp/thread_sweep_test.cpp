// The part of the returns' CUDA twins that needs no GPU: the steps on one lane and the loops of a thread, on the CPU.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "returns/gae.hpp"
#include "returns/n_step_return.hpp"
#include "returns/thread_sweep.hpp"
#include "returns/vtrace.hpp"
#include "rollout_inputs.hpp"

using namespace pyrl;
using namespace pyrl::returns;

namespace {

// As sweep.cuh, a thread an environment.
template <class T, class Recursion>
void sweep_wide(const RolloutView<T>& rollout, const Recursion& recursion) {
  const auto from = unchecked_pointers(rollout);
  for (std::int64_t environment = 0; environment < from.row; ++environment) {
    T carry{};
    if (from.plain()) {
      sweep_rows<Lane<T>, true, 16>(from, recursion, environment, {0, from.steps}, carry);
    } else {
      sweep_rows<Lane<T>, false, 16>(from, recursion, environment, {0, from.steps}, carry);
    }
  }
}

// As sweep.cuh, blocks of `side` environments and `chunks` chunks; where a block waits for all its threads, they take turns here.
template <class T, class Recursion>
void sweep_chunks(const RolloutView<T>& rollout, const Recursion& recursion, int side, int chunks) {
  const auto from = unchecked_pointers(rollout);
  for (std::int64_t block = 0; block * side < from.row; ++block) {
    std::vector<Affine<T>> through, before;
    const auto for_threads = [&](const auto& body) {
      for (int thread = 0; thread < side * chunks; ++thread) {
        const ChunkThread self{thread, side, chunks};
        body(self, self.environment(block), self.environment(block) < from.row ? self.rows(from.steps) : Rows{0, 0});
      }
    };
    for_threads([&](const ChunkThread&, std::int64_t environment, Rows rows) {
      through.push_back(carry_through<false, 4>(from, recursion, environment, rows));
    });
    for (int reach = 1; reach < chunks; reach *= 2) {
      before = through;
      for_threads([&](const ChunkThread& self, std::int64_t, Rows) {
        through[static_cast<std::size_t>(self.thread)] = self.composed(before.data(), reach);
      });
    }
    for_threads([&](const ChunkThread& self, std::int64_t environment, Rows rows) {
      T carry = self.carry(through.data());
      sweep_rows<Lane<T>, false, 4>(from, recursion, environment, rows, carry);
    });
  }
}

template <class T, class Recursion>
void sweep_elements(const RolloutView<T>& rollout, std::int64_t count, const Recursion& recursion) {
  const auto from = unchecked_pointers(rollout);
  T carry{};
  for (std::int64_t i = 0; i < count; ++i)
    recursion.template step<Lane<T>, false>(from, recursion.template read<Lane<T>, false>(from, 0, i), 0, i, carry);
}

// body(the kernel, its recursion, whether it has two outputs, these) for every recursion.
template <class T, class Body>
void for_recursions(const Inputs<T>& in, double c_bar, const Body& body) {
  const std::array<std::int64_t, 2> shape{in.T_, in.N};
  const ArrayView<const T, 2> log_prob{in.log_prob.get(), shape}, behaviour{in.behaviour_log_prob.get(), shape};
  std::vector<T> first(static_cast<std::size_t>(in.T_ * in.N)), second(first.size());
  const ArrayView<T, 2> a{first.data(), shape}, b{second.data(), shape};
  const GaeArgs<T> gae_args{in.view(), a, b, 0.99, 0.95};
  body([&] { gae(gae_args); }, GaeRecursion<T>(gae_args), true, first, second);
  const LambdaReturnArgs<T> lambda_args{in.view(), a, 0.99, 0.9}, discounted_args{in.view(), a, 0.99, 1.0};
  body([&] { lambda_return(lambda_args); }, LambdaReturnRecursion<T, false>(lambda_args), false, first, second);
  body([&] { lambda_return(discounted_args); }, LambdaReturnRecursion<T, true>(discounted_args), false, first, second);
  const VtraceArgs<T> vtrace_args{in.view(), log_prob, behaviour, a, b, 0.99, 0.95, 1.0, c_bar};
  body([&] { vtrace(vtrace_args); }, VtraceRecursion<T>(vtrace_args), true, first, second);
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

template <class T>
void check(const Inputs<T>& in) {
  CAPTURE(in);
  for (double c_bar : {1.0, 1e9})
    for_recursions<T>(in, c_bar, [&](const auto& on_cpu, const auto& recursion, bool writes_two, std::vector<T>& first, std::vector<T>& second) {
      on_cpu();
      const std::vector<T> want_first = first, want_second = second;
      const auto clear = [&] {  // the recursions with one output leave `second` as it is
        std::fill(first.begin(), first.end(), T(7));
        if (writes_two) std::fill(second.begin(), second.end(), T(7));
      };
      clear();
      sweep_wide(in.view(), recursion);
      CHECK(same_bits(first, want_first));
      CHECK(same_bits(second, want_second));
      for (int side : {1, 4}) {
        clear();
        sweep_chunks(in.view(), recursion, side, 16 / side);
        T worst = 0, largest = 1;
        for (std::size_t i = 0; i < first.size(); ++i) {
          worst = std::max({worst, std::abs(first[i] - want_first[i]), std::abs(second[i] - want_second[i])});
          largest = std::max({largest, std::abs(want_first[i]), std::abs(want_second[i])});
        }
        CHECK(worst <= largest * (sizeof(T) == 4 ? T(2e-6) : T(1e-14)));
      }
    });
  for (std::int64_t n : {1, 3, 40}) {
    std::vector<T> got(static_cast<std::size_t>(in.T_ * in.N), T(7)), want(got.size());
    const NStepReturnArgs<T> args{in.view(), {got.data(), {in.T_, in.N}}, n, 0.99};
    NStepReturnArgs<T> on_cpu = args;
    on_cpu.return_.data = want.data();
    n_step_return(on_cpu);
    sweep_elements(args.rollout, args.whole_windows() * in.N, WholeWindows<T>(args));
    sweep_wide(args.rest().rollout, LambdaReturnRecursion<T, true>(args.rest()));
    CHECK(same_bits(got, want));
  }
}

}  // namespace

TEST_CASE("CUDA: a thread an environment gives the bits of the vector loops, chunks of time the same numbers") {
  for (bool rows : {false, true})
    for (std::int64_t environments : {0, 1, 3, 4, 17})
      for (std::int64_t steps : {0, 1, 2, 15, 16, 17, 33, 100}) {
        check(Inputs<float>(steps, environments, rows));
        check(Inputs<double>(steps, environments, rows));
      }
}

TEST_CASE("CUDA: a NaN reaches back through chunks whose slopes are zero, and stops at a cut") {
  constexpr std::int64_t steps = 5000, cut = 1000;
  for (double gae_lambda : {0.95, 0.0}) {  // 0.94^4000 and 0 are no cuts
    Inputs<float> in(steps, 1, false);
    for (int i = 0; i < steps; ++i) in.truncated[i] = false, in.terminated[i] = i == cut;
    in.reward[steps - 1] = std::numeric_limits<float>::quiet_NaN();
    std::vector<float> first(steps), second(steps);
    const GaeArgs<float> args{in.view(), {first.data(), {steps, 1}}, {second.data(), {steps, 1}}, 0.99, gae_lambda};
    gae(args);
    const std::vector<float> want = first;
    sweep_chunks(in.view(), GaeRecursion<float>(args), 1, 16);
    for (int i = 0; i < steps; ++i) REQUIRE(std::isnan(first[i]) == std::isnan(want[i]));
    CHECK(std::isnan(first[cut + 1]));
    CHECK(!std::isnan(first[cut]));
  }
}

TEST_CASE("CUDA: a truncated step without final_value gives NaN, up to the start of its episode") {
  Inputs<float> in(4, 1, true);
  in.final_value.reset(), in.valid.reset();
  for (int i = 0; i < 4; ++i) in.truncated[i] = in.terminated[i] = false;
  in.truncated[2] = in.terminated[0] = true;
  float first[4] = {}, second[4] = {};
  const GaeArgs<float> args{in.view(), {first, {4, 1}}, {second, {4, 1}}, 0.9, 0.9};
  sweep_wide(args.rollout, GaeRecursion<float>(args));
  CHECK(std::isfinite(first[0]));
  CHECK(std::isnan(first[1]));
  CHECK(std::isnan(first[2]));
  CHECK(std::isfinite(first[3]));
}

TEST_CASE("CUDA: a cut lets no NaN through, whatever the chunks") {
  Inputs<float> in(64, 1, false);
  for (int i = 0; i < 64; ++i) in.truncated[i] = in.terminated[i] = i % 10 == 9;
  in.reward[35] = std::nanf("");
  float first[64] = {}, second[64] = {};
  const GaeArgs<float> args{in.view(), {first, {64, 1}}, {second, {64, 1}}, 0.9, 0.9};
  for (int chunks : {1, 8, 64}) {
    sweep_chunks(args.rollout, GaeRecursion<float>(args), 2, chunks);
    for (int i = 0; i < 64; ++i) CHECK(std::isnan(first[i]) == (i >= 30 && i <= 35));
  }
}
