// Pendulum: swing up and stay there. The torque and its square are float32, as actions are.
#include "envs/builtin.hpp"
#include "envs/kit.hpp"

namespace pyrl::envs {
namespace {

struct State {
  double theta, speed;
};

enum : std::size_t { max_speed, max_torque, dt, gravity, mass, length, x_init, y_init };

constexpr Parameters<8> names{{"max_speed", "max_torque", "dt", "g", "m", "l", "x_init", "y_init"}, {8, 2, 0.05, 10, 1, 1, pi, 1}};
constexpr double torque_low[] = {-2}, torque_high[] = {2};

void observe(const State& s, void* observation) {
  auto* const out = static_cast<float*>(observation);
  out[0] = static_cast<float>(std::cos(s.theta));
  out[1] = static_cast<float>(std::sin(s.theta));
  out[2] = static_cast<float>(s.speed);
}

std::int32_t reset(void* state, const double* p, const double* u, void* observation) {
  auto& s = *static_cast<State*>(state);
  s = {between(-p[x_init], p[x_init], u[0]), between(-p[y_init], p[y_init], u[1])};
  observe(s, observation);
  return 0;
}

std::int32_t step(void* state, const double* p, const double*, const void* action, void* observation, double* reward, std::uint8_t*) {
  auto& s = *static_cast<State*>(state);
  const auto limit = static_cast<float>(p[max_torque]);
  float torque = *static_cast<const float*>(action);
  torque = torque < -limit ? -limit : torque > limit ? limit : torque;
  const double angle = modulo(s.theta + pi, 2 * pi) - pi;
  const double cost = power(angle, 2.0) + 0.1 * power(s.speed, 2.0) + static_cast<double>(0.001f * power(torque, 2.0f));
  const auto push = static_cast<double>(static_cast<float>(3.0 / (p[mass] * power(p[length], 2.0))) * torque);
  double speed = s.speed + (3 * p[gravity] / (2 * p[length]) * std::sin(s.theta) + push) * p[dt];
  speed = speed < -p[max_speed] ? -p[max_speed] : speed > p[max_speed] ? p[max_speed] : speed;
  s = {s.theta + speed * p[dt], speed};
  *reward = -cost;
  observe(s, observation);
  return 0;
}

}  // namespace

constinit const pyrl_env pendulum = describe<State>(box(3), box(1, torque_low, torque_high), 2, 0, names, reset, step);

}  // namespace pyrl::envs
