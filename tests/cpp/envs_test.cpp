// Native environments: episodes, random numbers, and what a description or an environment may not do.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "core/check.hpp"
#include "core/parallel.hpp"
#include "core/philox.hpp"
#include "envs/builtin.hpp"
#include "envs/library.hpp"
#include "envs/pool.hpp"
#include "envs/probe.hpp"

using namespace pyrl;
using namespace pyrl::envs;

namespace {

// Counts its steps, shows the first random number of its latest call, and ends after five.
struct Counter {
  std::int64_t steps;
};

std::int32_t reset_counter(void* state, const double*, const double* uniform, void* observation) {
  static_cast<Counter*>(state)->steps = 0;
  *static_cast<float*>(observation) = static_cast<float>(uniform[2]);
  return 0;
}

std::int32_t step_counter(void* state, const double* parameters, const double* uniform, const void* action, void* observation, double* reward,
                          std::uint8_t* ended) {
  auto& counter = *static_cast<Counter*>(state);
  *reward = parameters[0] * static_cast<double>(*static_cast<const std::int64_t*>(action));
  *static_cast<float*>(observation) = static_cast<float>(uniform[0]);
  ended[0] = ++counter.steps == 5;
  return 0;
}

const char* const names[] = {"scale"};
const double values[] = {2.0};

pyrl_env counter() {
  return {PYRL_ENV_VERSION, sizeof(pyrl_env), {PYRL_BOX, PYRL_FLOAT32, 1, {1, 0, 0, 0}, nullptr, nullptr},
          {PYRL_DISCRETE, PYRL_INT64, 0, {3, 0, 0, 0}, nullptr, nullptr}, sizeof(Counter), 3, 1, 0, 1, names, values, reset_counter, step_counter, nullptr, nullptr};
}

struct Columns {
  explicit Columns(std::size_t n) : action(n, 1), following(n), after(n), reward(n), terminated(new bool[n]()), truncated(new bool[n]()) {}
  std::vector<std::int64_t> action;
  std::vector<float> following, after;
  std::vector<double> reward;
  std::unique_ptr<bool[]> terminated, truncated;

  std::int64_t step(Pool& pool, bool restart = true) {
    std::int64_t ended = 0;
    const Fault fault = pool.step(action.data(), following.data(), after.data(), reward.data(), terminated.get(), truncated.get(), restart, ended);
    CHECK_FALSE(fault);
    return ended;
  }
};

std::string message(const pyrl_env& env) {
  try {
    check_description(env, "lib:Name");
  } catch (const ArgumentError& error) {
    return error.what();
  }
  return "";
}

bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("an ended episode restarts, with numbers of (key, step, purpose)") {
  Pool pool(counter(), {2.0}, 2, 0);
  pool.seed(0, 7);
  pool.seed(1, 8);
  std::vector<float> first(2);
  CHECK_FALSE(pool.reset(nullptr, nullptr, first.data()));
  const auto shown = [](std::uint64_t key, std::uint64_t step, std::uint32_t purpose, std::uint32_t index) {
    const PhiloxBlock words = philox(key, step, purpose, index / 2);
    return static_cast<float>(index % 2 == 0 ? uniform_double(words[0], words[1]) : uniform_double(words[2], words[3]));
  };
  CHECK(first[0] == shown(7, 0, 1, 2));
  CHECK(first[1] == shown(8, 0, 1, 2));
  Columns columns(2);
  for (std::uint64_t step = 1; step <= 5; ++step) {
    CHECK(columns.step(pool) == (step == 5 ? 2 : 0));
    CHECK(columns.following[0] == shown(7, step, 0, 0));
    CHECK(columns.reward[0] == 2.0);
  }
  CHECK(columns.terminated[0]);
  CHECK(columns.after[1] == shown(8, 6, 1, 2));
  CHECK(columns.step(pool) == 0);
}

TEST_CASE("time limits truncate, and a copied state goes on alike") {
  Pool pool(counter(), {1.0}, 3, 3), other(counter(), {1.0}, 3, 3);
  Columns columns(3), others(3);
  for (std::int64_t i = 0; i < 3; ++i) pool.seed(i, static_cast<std::uint64_t>(i));
  CHECK_FALSE(pool.reset(nullptr, nullptr, columns.after.data()));
  CHECK(columns.step(pool) == 0);
  std::vector<std::byte> bytes(static_cast<std::size_t>(pool.copy_bytes()));
  for (std::int64_t i = 0; i < 3; ++i) {
    pool.save(i, bytes.data());
    other.load(i, bytes.data());
  }
  for (int step = 0; step < 9; ++step) {
    const std::int64_t ended = columns.step(pool);
    CHECK(ended == others.step(other));
    CHECK(ended == (step % 3 == 1 ? 3 : 0));
    CHECK(columns.following == others.following);
    if (ended > 0) CHECK(columns.after == others.after);
    if (ended > 0) CHECK((columns.truncated[0] && !columns.terminated[0]));
  }
}

TEST_CASE("the number of threads changes nothing") {
  std::vector<float> seen[2];
  for (const int threads : {1, 3}) {
    const int before = set_num_threads(threads);
    Pool pool(counter(), {1.0}, 2000, 0);
    for (std::int64_t i = 0; i < 2000; ++i) pool.seed(i, static_cast<std::uint64_t>(i));
    Columns columns(2000);
    CHECK_FALSE(pool.reset(nullptr, nullptr, columns.after.data()));
    for (int step = 0; step < 7; ++step) columns.step(pool);
    seen[threads == 3] = columns.following;
    set_num_threads(before);
  }
  CHECK(seen[0] == seen[1]);
}

TEST_CASE("a description that cannot be one is refused by name") {
  CHECK(message(counter()).empty());
  const auto changed = [](auto change) {
    pyrl_env env = counter();
    change(env);
    return message(env);
  };
  CHECK(has(changed([](pyrl_env& e) { e.version = 2; }), "version 2"));
  CHECK(has(changed([](pyrl_env& e) { e.struct_size -= 8; }), "struct_size"));
  CHECK(has(changed([](pyrl_env& e) { e.observation.kind = 9; }), "observation is 9"));
  CHECK(has(changed([](pyrl_env& e) { e.observation.rank = 5; }), "rank"));
  CHECK(has(changed([](pyrl_env& e) { e.observation.shape[0] = 0; }), "shape[0]"));
  CHECK(has(changed([](pyrl_env& e) { e.observation.shape[0] = std::int64_t{1} << 60; }), "shape[0]"));
  CHECK(has(changed([](pyrl_env& e) { e.action.shape[0] = 0; }), "Discrete of 0"));
  CHECK(has(changed([](pyrl_env& e) { e.action = {PYRL_BOX, PYRL_UINT8, 1, {1, 0, 0, 0}, nullptr, nullptr}; }), "dtype of the space action"));
  CHECK(has(changed([](pyrl_env& e) { e.state_size = ~std::uint64_t{0}; }), "state_size"));
  CHECK(has(changed([](pyrl_env& e) { e.reset_uniforms = 1u << 30; }), "reset_uniforms"));
  CHECK(has(changed([](pyrl_env& e) { e.parameters = nullptr; }), "num_parameters"));
  CHECK(has(changed([](pyrl_env& e) { e.step = nullptr; }), "NULL"));
  CHECK(has(changed([](pyrl_env& e) { e.close = [](void*) {}; }), "no open"));
}

TEST_CASE("the first look finds what an environment may not do") {
  const auto found = [](auto reset, auto step) {
    pyrl_env env = counter();
    env.reset = reset;
    env.step = step;
    return probe(env, {1.0});
  };
  CHECK(found(reset_counter, step_counter).empty());
  CHECK(has(found([](void*, const double*, const double*, void*) { return std::int32_t{3}; }, step_counter), "reset returned 3"));
  CHECK(has(found([](void*, const double*, const double*, void*) { return std::int32_t{0}; }, step_counter), "not finite"));
  CHECK(has(found([](void* state, const double*, const double*, void*) { return static_cast<Counter*>(state)[1].steps = 1, std::int32_t{0}; }, step_counter),
            "beyond the state"));
  CHECK(has(found([](void*, const double*, const double*, void* o) { return static_cast<float*>(o)[0] = static_cast<float*>(o)[1] = 0, std::int32_t{0}; },
                  step_counter),
            "beyond the observation"));
  CHECK(has(found(reset_counter,
                  [](void*, const double*, const double*, const void*, void* o, double* reward, std::uint8_t*) {
                    *static_cast<float*>(o) = 0;
                    *reward = std::numeric_limits<double>::quiet_NaN();
                    return std::int32_t{0};
                  }),
            "reward nan"));
  CHECK(has(found(reset_counter,
                  [](void*, const double*, const double*, const void*, void* o, double*, std::uint8_t* ended) {
                    *static_cast<float*>(o) = 0;
                    ended[1] = 7;
                    return std::int32_t{0};
                  }),
            "{0, 7}"));
}

TEST_CASE("libraries that are not there, and names") {
  CHECK(builtin("CartPole") == &cart_pole);
  CHECK(builtin("cartpole") == nullptr);
  CHECK_THROWS_AS(load_environment("/nowhere/lib.so", "Name"), ArgumentError);
}
