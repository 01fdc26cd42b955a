// MountainCar (Moore 1990): three actions.
#include "envs/builtin.hpp"
#include "envs/kit.hpp"

namespace pyrl::envs {
namespace {

struct State {
  double position, velocity;
};

enum : std::size_t { min_position, max_position, max_speed, goal_position, goal_velocity, force, gravity, low, high };

constexpr Parameters<9> names{{"min_position", "max_position", "max_speed", "goal_position", "goal_velocity", "force", "gravity", "low", "high"},
                              {-1.2, 0.6, 0.07, 0.5, 0, 0.001, 0.0025, -0.6, -0.4}};

double bounded(double x, double least, double most) { return x < least ? least : x > most ? most : x; }

void observe(const State& s, void* observation) {
  static_cast<float*>(observation)[0] = static_cast<float>(s.position);
  static_cast<float*>(observation)[1] = static_cast<float>(s.velocity);
}

std::int32_t reset(void* state, const double* p, const double* u, void* observation) {
  auto& s = *static_cast<State*>(state);
  s = {between(p[low], p[high], u[0]), 0.0};
  observe(s, observation);
  return 0;
}

std::int32_t step(void* state, const double* p, const double*, const void* action, void* observation, double* reward, std::uint8_t* ended) {
  auto& s = *static_cast<State*>(state);
  const auto push = static_cast<double>(*static_cast<const std::int64_t*>(action) - 1);
  s.velocity = bounded(s.velocity + (push * p[force] + std::cos(3 * s.position) * -p[gravity]), -p[max_speed], p[max_speed]);
  s.position = bounded(s.position + s.velocity, p[min_position], p[max_position]);
  if (s.position == p[min_position] && s.velocity < 0) s.velocity = 0;
  ended[0] = s.position >= p[goal_position] && s.velocity >= p[goal_velocity];
  *reward = -1.0;
  observe(s, observation);
  return 0;
}

}  // namespace

constinit const pyrl_env mountain_car = describe<State>(box(2), discrete(3), 1, 0, names, reset, step);

}  // namespace pyrl::envs
