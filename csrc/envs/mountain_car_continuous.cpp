// MountainCarContinuous. Gymnasium keeps its state in float32 from the first step on, and NumPy then computes in float32 wherever no
// Python number has taken a variable's place; `Real` is the type that it computes in.
#include "envs/builtin.hpp"
#include "envs/kit.hpp"

namespace pyrl::envs {
namespace {

struct State {
  double position, velocity;
  std::int64_t stepped;  // since the reset, whose state is float64
};

enum : std::size_t { min_position, max_position, max_speed, goal_position, goal_velocity, power_, min_action, max_action, low, high };

constexpr Parameters<10> names{
    {"min_position", "max_position", "max_speed", "goal_position", "goal_velocity", "power", "min_action", "max_action", "low", "high"},
    {-1.2, 0.6, 0.07, 0.45, 0, 0.0015, -1, 1, -0.6, -0.4}};
constexpr double force_low[] = {-1}, force_high[] = {1};

void observe(const State& s, void* observation) {
  static_cast<float*>(observation)[0] = static_cast<float>(s.position);
  static_cast<float*>(observation)[1] = static_cast<float>(s.velocity);
}

std::int32_t reset(void* state, const double* p, const double* u, void* observation) {
  auto& s = *static_cast<State*>(state);
  s = {between(p[low], p[high], u[0]), 0.0, 0};
  observe(s, observation);
  return 0;
}

// The push of the engine and of gravity, in the type in which the velocity takes it.
template <class Real>
Real acceleration(double position, float action, const double* p) {
  const double slope = 0.0025 * std::cos(static_cast<double>(static_cast<Real>(3) * static_cast<Real>(position)));
  // A bound that takes the action's place is a Python number, and so float64.
  if (static_cast<float>(p[min_action]) > action) return static_cast<Real>(p[min_action] * p[power_] - slope);
  if (static_cast<float>(p[max_action]) < action) return static_cast<Real>(p[max_action] * p[power_] - slope);
  return static_cast<Real>(action * static_cast<float>(p[power_]) - static_cast<float>(slope));
}

template <class Real>
bool move(State& s, float action, const double* p) {
  const auto real = [&](std::size_t name) { return static_cast<Real>(p[name]); };
  Real velocity = static_cast<Real>(s.velocity) + acceleration<Real>(s.position, action, p);
  if (velocity > real(max_speed)) velocity = real(max_speed);
  if (velocity < -real(max_speed)) velocity = -real(max_speed);
  Real position = static_cast<Real>(s.position) + velocity;
  if (position > real(max_position)) position = real(max_position);
  if (position < real(min_position)) position = real(min_position);
  if (position == real(min_position) && velocity < 0) velocity = 0;
  s = {static_cast<float>(position), static_cast<float>(velocity), 1};
  return position >= real(goal_position) && velocity >= real(goal_velocity);
}

std::int32_t step(void* state, const double* p, const double*, const void* action, void* observation, double* reward, std::uint8_t* ended) {
  auto& s = *static_cast<State*>(state);
  const float force = *static_cast<const float*>(action);
  ended[0] = s.stepped != 0 ? move<float>(s, force, p) : move<double>(s, force, p);
  *reward = (ended[0] ? 100.0 : 0.0) - power(static_cast<double>(force), 2.0) * 0.1;
  observe(s, observation);
  return 0;
}

}  // namespace

constinit const pyrl_env mountain_car_continuous = describe<State>(box(2), box(1, force_low, force_high), 1, 0, names, reset, step);

}  // namespace pyrl::envs
