// The returns' CUDA twins on the emulated GPU: the CPU's bits where a thread has an environment, the same numbers by chunks of time.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "../rollout_inputs.hpp"
#include "gpu.hpp"
#include "returns/gae.hpp"
#include "returns/lambda_return.hpp"
#include "returns/n_step_return.hpp"
#include "returns/vtrace.hpp"

using namespace pyrl;
using namespace pyrl::returns;

namespace {

// sweep.cuh: a thread an environment.
bool is_exact(std::int64_t steps, std::int64_t environments) { return steps < 32 || environments >= 8192; }

// body(cpu, twin, whether it has two outputs, exact) for every kernel, whose outputs are `first` and `second`.
template <class T, class Body>
void for_kernels(const Inputs<T>& in, std::vector<T>& first, std::vector<T>& second, const Body& body) {
  const std::array<std::int64_t, 2> shape{in.T_, in.N};
  const ArrayView<const T, 2> log_prob{in.log_prob.get(), shape}, behaviour{in.behaviour_log_prob.get(), shape};
  const ArrayView<T, 2> a{first.data(), shape}, b{second.data(), shape};
  const bool exact = is_exact(in.T_, in.N);
  const GaeArgs<T> gae_args{in.view(), a, b, 0.99, 0.95};
  body([&] { gae(gae_args); }, [&] { gae_cuda(gae_args, gpu); }, exact);
  for (double lambda : {0.9, 1.0}) {
    const LambdaReturnArgs<T> args{in.view(), a, 0.99, lambda};
    body([&] { lambda_return(args); }, [&] { lambda_return_cuda(args, gpu); }, exact);
  }
  for (std::int64_t n : {1, 3, 40}) {
    const NStepReturnArgs<T> args{in.view(), a, n, 0.99};
    body([&] { n_step_return(args); }, [&] { n_step_return_cuda(args, gpu); }, n <= 32 || exact);
  }
  for (double c_bar : {1.0, 1e9}) {  // above 1 a step may expand the carry: never by chunks
    const VtraceArgs<T> args{in.view(), log_prob, behaviour, a, b, 0.99, 0.95, 1.0, c_bar};
    body([&] { vtrace(args); }, [&] { vtrace_cuda(args, gpu); }, exact || c_bar > 1);
  }
}

template <class T>
void check(const Inputs<T>& in) {
  CAPTURE(in);
  std::vector<T> first(static_cast<std::size_t>(in.T_ * in.N), T(7)), second(first);
  for_kernels<T>(in, first, second, [&](const auto& on_cpu, const auto& twin, bool exact) {
    const auto clear = [&] {
      std::fill(first.begin(), first.end(), T(7));
      std::fill(second.begin(), second.end(), T(7));
    };
    clear();
    on_cpu();
    const std::vector<T> want_first = first, want_second = second;
    clear();
    twin();
    if (exact) {
      CHECK(same_bits(first, want_first));
      CHECK(same_bits(second, want_second));
      return;
    }
    T worst = 0, largest = 1;
    for (std::size_t i = 0; i < first.size(); ++i) {
      worst = std::max({worst, std::abs(first[i] - want_first[i]), std::abs(second[i] - want_second[i])});
      largest = std::max({largest, std::abs(want_first[i]), std::abs(want_second[i])});
    }
    CHECK(worst <= largest * (sizeof(T) == 4 ? T(2e-6) : T(1e-14)));
  });
}

}  // namespace

TEST_CASE("CUDA: returns by a thread an environment have the CPU's bits, by chunks of time its numbers") {
  for (bool rows : {false, true}) {
    for (std::int64_t environments : {0, 1, 3, 4, 17, 40})
      for (std::int64_t steps : {0, 1, 2, 15, 16, 17, 31, 32, 33, 100, 700}) {
        check(Inputs<float>(steps, environments, rows));
        check(Inputs<double>(steps, environments, rows));
      }
    check(Inputs<float>(40, 8195, rows));
    check(Inputs<double>(40, 8195, rows));
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
    gae_cuda(args, gpu);
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
  gae_cuda(GaeArgs<float>{in.view(), {first, {4, 1}}, {second, {4, 1}}, 0.9, 0.9}, gpu);
  CHECK(std::isfinite(first[0]));
  CHECK(std::isnan(first[1]));
  CHECK(std::isnan(first[2]));
  CHECK(std::isfinite(first[3]));
}

TEST_CASE("CUDA: a cut lets no NaN through, whatever the chunks") {
  for (std::int64_t environments : {1, 8, 32}) {  // 512, 64, 16 chunks
    Inputs<float> in(64, environments, false);
    const auto count = static_cast<std::size_t>(64 * environments);
    for (std::size_t i = 0; i < count; ++i) in.truncated[i] = in.terminated[i] = i / static_cast<std::size_t>(environments) % 10 == 9;
    in.reward[35 * environments] = std::nanf("");
    std::vector<float> first(count), second(count);
    gae_cuda(GaeArgs<float>{in.view(), {first.data(), {64, environments}}, {second.data(), {64, environments}}, 0.9, 0.9}, gpu);
    for (std::int64_t t = 0; t < 64; ++t) CHECK(std::isnan(first[static_cast<std::size_t>(t * environments)]) == (t >= 30 && t <= 35));
  }
}
