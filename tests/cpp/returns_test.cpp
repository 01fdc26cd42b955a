#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "core/check.hpp"
#include "core/parallel.hpp"
#include "core/platform.hpp"
#include "returns/gae.hpp"
#include "returns/lambda_return.hpp"
#include "returns/n_step_return.hpp"
#include "returns/vtrace.hpp"
#include "rollout_inputs.hpp"

using namespace pyrl;
using namespace pyrl::returns;

namespace {

// The bytes of all outputs of all kernels, one after the other.
template <class T>
std::vector<T> run_all(const Inputs<T>& in) {
  const std::size_t count = static_cast<std::size_t>(in.T_ * in.N);
  std::vector<T> all;
  auto first = std::make_unique<T[]>(count), second = std::make_unique<T[]>(count);
  const ArrayView<T, 2> a{first.get(), {in.T_, in.N}}, b{second.get(), {in.T_, in.N}};
  const auto keep = [&](const std::unique_ptr<T[]>& array) { all.insert(all.end(), array.get(), array.get() + count); };
  gae(GaeArgs<T>{in.view(), a, b, 0.99, 0.95});
  keep(first), keep(second);
  lambda_return(LambdaReturnArgs<T>{in.view(), a, 0.99, 0.9});
  keep(first);
  n_step_return(NStepReturnArgs<T>{in.view(), a, 3, 0.99});
  keep(first);
  const std::array<std::int64_t, 2> shape{in.T_, in.N};
  vtrace(VtraceArgs<T>{in.view(), {in.log_prob.get(), shape}, {in.behaviour_log_prob.get(), shape}, a, b, 0.99, 1.0, 1.0, 1.0});
  keep(first), keep(second);
  return all;
}

template <class T>
void same_bits(const Inputs<T>& in) {
  CAPTURE(in);
  const auto before = simd::level();
  std::vector<T> want;
  for (int level = 0; level <= static_cast<int>(simd::supported()); ++level) {
    for (int threads : {1, 3}) {
      simd::set_level(static_cast<simd::Level>(level));
      set_num_threads(threads);
      const auto got = run_all(in);
      if (want.empty()) want = got;
      CHECK((got.empty() || std::memcmp(got.data(), want.data(), got.size() * sizeof(T)) == 0));
    }
  }
  simd::set_level(before);
  set_num_threads(0);
}

}  // namespace

TEST_CASE("returns: every width and remainder, on exact allocations, gives the same bits at every level and thread count") {
  for (bool rows : {false, true}) {
    for (std::int64_t environments : {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 64, 65, 129}) {
      for (std::int64_t steps : {0, 1, 2, 5}) {
        same_bits(Inputs<float>(steps, environments, rows));
        same_bits(Inputs<double>(steps, environments, rows));
      }
    }
    // Tiles of the wide sweep, whole and with a remainder; large enough for several threads.
    same_bits(Inputs<float>(140, 2048 + 5, rows));
    same_bits(Inputs<double>(140, 2048 + 5, rows));
    same_bits(Inputs<float>(140, 4096, rows));
  }
}

TEST_CASE("returns: a truncated step without final_value is refused before anything is written") {
  Inputs<float> in(3, 2, true);
  in.final_value.reset(), in.valid.reset();
  for (int i = 0; i < 6; ++i) in.truncated[i] = in.terminated[i] = false;
  float first[6] = {7, 7, 7, 7, 7, 7}, second[6] = {};
  const GaeArgs<float> args{in.view(), {first, {3, 2}}, {second, {3, 2}}, 0.9, 0.9};
  in.truncated[3] = true;
  CHECK_THROWS_WITH_AS(gae(args), doctest::Contains("gae: truncated[1, 1] is set and final_value is None"), ArgumentError);
  CHECK(first[0] == 7);
  in.terminated[3] = true;
  CHECK_NOTHROW(gae(args));
  CHECK(first[0] != 7);
}

TEST_CASE("returns: the exponential at the ends of its range") {
  using L = Vec<double, 4>;
  const double infinity = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  const auto result = exponential<L>(L::Value{-infinity, infinity, 0.0, nan});
  CHECK(result[0] == 0);
  CHECK(result[1] == infinity);
  CHECK(result[2] == 1);
  CHECK(std::isnan(result[3]));
}
