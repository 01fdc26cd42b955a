// Environments that are a table, as Gymnasium's toy texts are (FrozenLake, Taxi, CliffWalking): P[state][action] lists the outcomes.
//
//   parameters = (S, A, K, start_1, ..., start_S,  S x A x K outcomes of (until, next state, reward, terminated))
//
// start and `until` are running sums of probabilities, so an outcome is the first whose sum exceeds the random number; if none does,
// which rounding can do, it is the first of all, as numpy.argmax has it. Rows with fewer outcomes are filled up with sums of zero.
#include "envs/builtin.hpp"
#include "envs/kit.hpp"

namespace pyrl::envs {
namespace {

constexpr int head = 3, width = 4;

std::int64_t chosen(const double* until, std::int64_t stride, std::int64_t count, double uniform) {
  for (std::int64_t i = 0; i < count; ++i)
    if (until[i * stride] > uniform) return i;
  return 0;
}

std::int32_t reset(void* state, const double* p, const double* u, void* observation) {
  auto& s = *static_cast<std::int64_t*>(state);
  s = chosen(p + head, 1, static_cast<std::int64_t>(p[0]), u[0]);
  *static_cast<std::int64_t*>(observation) = s;
  return 0;
}

std::int32_t step(void* state, const double* p, const double* u, const void* action, void* observation, double* reward, std::uint8_t* ended) {
  auto& s = *static_cast<std::int64_t*>(state);
  const auto states = static_cast<std::int64_t>(p[0]), actions = static_cast<std::int64_t>(p[1]), count = static_cast<std::int64_t>(p[2]);
  const double* const row = p + head + states + (s * actions + *static_cast<const std::int64_t*>(action)) * count * width;
  const double* const outcome = row + width * chosen(row, width, count, u[0]);
  s = static_cast<std::int64_t>(outcome[1]);
  *reward = outcome[2];
  ended[0] = outcome[3] != 0;
  *static_cast<std::int64_t*>(observation) = s;
  return 0;
}

constexpr Parameters<3> names{{"S", "A", "K"}, {1, 1, 1}};

}  // namespace

// The spaces and the rest of the table come with the call.
constinit const pyrl_env tabular = describe<std::int64_t>(discrete(1), discrete(1), 1, 1, names, reset, step);

const pyrl_env* builtin(const std::string& name) {
  const struct {
    const char* name;
    const pyrl_env* env;
  } known[] = {{"CartPole", &cart_pole},        {"Pendulum", &pendulum}, {"Acrobot", &acrobot},
               {"MountainCar", &mountain_car},  {"MountainCarContinuous", &mountain_car_continuous},
               {"Tabular", &tabular}};
  for (const auto& entry : known)
    if (name == entry.name) return entry.env;
  return nullptr;
}

}  // namespace pyrl::envs
