// CartPole (Barto, Sutton and Anderson 1983), Euler's method.
#include "envs/builtin.hpp"
#include "envs/kit.hpp"

namespace pyrl::envs {
namespace {

struct State {
  double x, x_dot, theta, theta_dot;
};

enum : std::size_t { gravity, masspole, total_mass, length, polemass_length, force_mag, tau, theta_limit, x_limit, sutton_barto, low, high };

constexpr Parameters<12> names{{"gravity", "masspole", "total_mass", "length", "polemass_length", "force_mag", "tau", "theta_threshold_radians",
                                "x_threshold", "_sutton_barto_reward", "low", "high"},
                               {9.8, 0.1, 1.1, 0.5, 0.05, 10.0, 0.02, 12 * 2 * pi / 360, 2.4, 0, -0.05, 0.05}};

void observe(const State& s, void* observation) {
  auto* const out = static_cast<float*>(observation);
  out[0] = static_cast<float>(s.x);
  out[1] = static_cast<float>(s.x_dot);
  out[2] = static_cast<float>(s.theta);
  out[3] = static_cast<float>(s.theta_dot);
}

std::int32_t reset(void* state, const double* p, const double* u, void* observation) {
  auto& s = *static_cast<State*>(state);
  s = {between(p[low], p[high], u[0]), between(p[low], p[high], u[1]), between(p[low], p[high], u[2]), between(p[low], p[high], u[3])};
  observe(s, observation);
  return 0;
}

std::int32_t step(void* state, const double* p, const double*, const void* action, void* observation, double* reward, std::uint8_t* ended) {
  auto& s = *static_cast<State*>(state);
  const double force = *static_cast<const std::int64_t*>(action) == 1 ? p[force_mag] : -p[force_mag];
  const double cosine = std::cos(s.theta), sine = std::sin(s.theta);
  const double temp = (force + p[polemass_length] * (s.theta_dot * s.theta_dot) * sine) / p[total_mass];
  const double theta_acc =
      (p[gravity] * sine - cosine * temp) / (p[length] * (4.0 / 3.0 - p[masspole] * (cosine * cosine) / p[total_mass]));
  const double x_acc = temp - p[polemass_length] * theta_acc * cosine / p[total_mass];
  s = {s.x + p[tau] * s.x_dot, s.x_dot + p[tau] * x_acc, s.theta + p[tau] * s.theta_dot, s.theta_dot + p[tau] * theta_acc};
  const bool fell = s.x < -p[x_limit] || s.x > p[x_limit] || s.theta < -p[theta_limit] || s.theta > p[theta_limit];
  *reward = p[sutton_barto] == 0 ? 1.0 : fell ? -1.0 : 0.0;
  ended[0] = fell;
  observe(s, observation);
  return 0;
}

}  // namespace

constinit const pyrl_env cart_pole = describe<State>(box(4), discrete(2), 4, 0, names, reset, step);

}  // namespace pyrl::envs
