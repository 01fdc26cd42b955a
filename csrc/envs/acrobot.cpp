// Acrobot (Sutton 1996), the equations of the book (Sutton and Barto 1998) or of the paper ("nips"), integrated by Runge and Kutta's
// fourth-order method. The state is float32 until the first step, as Gymnasium's is.
#include "envs/builtin.hpp"
#include "envs/kit.hpp"

namespace pyrl::envs {
namespace {

using State = std::array<double, 4>;

enum : std::size_t { dt, length_1, mass_1, mass_2, com_1, com_2, inertia, max_speed_1, max_speed_2, torques, nips = torques + 3, low, high };

constexpr Parameters<15> names{{"dt", "LINK_LENGTH_1", "LINK_MASS_1", "LINK_MASS_2", "LINK_COM_POS_1", "LINK_COM_POS_2", "LINK_MOI", "MAX_VEL_1",
                                "MAX_VEL_2", "torque_0", "torque_1", "torque_2", "nips", "low", "high"},
                               {0.2, 1, 1, 1, 0.5, 0.5, 1, 4 * pi, 9 * pi, -1, 0, 1, 0, -0.1, 0.1}};

State slope(const State& s, double a, const double* p) {
  const double m1 = p[mass_1], m2 = p[mass_2], l1 = p[length_1], lc1 = p[com_1], lc2 = p[com_2], moment = p[inertia], g = 9.8;
  const auto [theta1, theta2, dtheta1, dtheta2] = s;
  const double cosine = std::cos(theta2), sine = std::sin(theta2);
  const double d1 = m1 * power(lc1, 2.0) + m2 * (power(l1, 2.0) + power(lc2, 2.0) + 2 * l1 * lc2 * cosine) + moment + moment;
  const double d2 = m2 * (power(lc2, 2.0) + l1 * lc2 * cosine) + moment;
  const double phi2 = m2 * lc2 * g * std::cos(theta1 + theta2 - pi / 2.0);
  const double phi1 = -m2 * l1 * lc2 * power(dtheta2, 2.0) * sine - 2 * m2 * l1 * lc2 * dtheta2 * dtheta1 * sine +
                      (m1 * lc1 + m2 * l1) * g * std::cos(theta1 - pi / 2) + phi2;
  const double push = p[nips] != 0 ? a + d2 / d1 * phi1 - phi2 : a + d2 / d1 * phi1 - m2 * l1 * lc2 * power(dtheta1, 2.0) * sine - phi2;
  const double ddtheta2 = push / (m2 * power(lc2, 2.0) + moment - power(d2, 2.0) / d1);
  return {dtheta1, dtheta2, -(d2 * ddtheta2 + phi1) / d1, ddtheta2};
}

State moved(const State& s, double by, const State& k) {
  State to;
  for (std::size_t i = 0; i < 4; ++i) to[i] = s[i] + by * k[i];
  return to;
}

double wrapped(double x) {
  while (x > pi) x -= 2 * pi;
  while (x < -pi) x += 2 * pi;
  return x;
}

double bounded(double x, double bound) { return x < -bound ? -bound : x > bound ? bound : x; }

void observe(const State& s, void* observation) {
  auto* const out = static_cast<float*>(observation);
  const double values[] = {std::cos(s[0]), std::sin(s[0]), std::cos(s[1]), std::sin(s[1]), s[2], s[3]};
  for (int i = 0; i < 6; ++i) out[i] = static_cast<float>(values[i]);
}

std::int32_t reset(void* state, const double* p, const double* u, void* observation) {
  auto& s = *static_cast<State*>(state);
  for (std::size_t i = 0; i < 4; ++i) s[i] = static_cast<float>(between(p[low], p[high], u[i]));
  observe(s, observation);
  return 0;
}

std::int32_t step(void* state, const double* p, const double*, const void* action, void* observation, double* reward, std::uint8_t* ended) {
  auto& s = *static_cast<State*>(state);
  const double torque = p[torques + static_cast<std::size_t>(*static_cast<const std::int64_t*>(action))];
  const double whole = p[dt], half = whole / 2.0;
  const State k1 = slope(s, torque, p), k2 = slope(moved(s, half, k1), torque, p), k3 = slope(moved(s, half, k2), torque, p),
              k4 = slope(moved(s, whole, k3), torque, p);
  State next;
  for (std::size_t i = 0; i < 4; ++i) next[i] = s[i] + whole / 6.0 * (k1[i] + 2 * k2[i] + 2 * k3[i] + k4[i]);
  // An unreasonable speed would loop endlessly.
  if (!(std::abs(next[0]) < 1e6 && std::abs(next[1]) < 1e6)) return 1;
  s = {wrapped(next[0]), wrapped(next[1]), bounded(next[2], p[max_speed_1]), bounded(next[3], p[max_speed_2])};
  ended[0] = -std::cos(s[0]) - std::cos(s[1] + s[0]) > 1.0;
  *reward = ended[0] ? 0.0 : -1.0;
  observe(s, observation);
  return 0;
}

}  // namespace

constinit const pyrl_env acrobot = describe<State>(box(6), discrete(3), 4, 0, names, reset, step);

}  // namespace pyrl::envs
