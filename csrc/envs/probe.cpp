#include "envs/probe.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "core/check.hpp"
#include "core/philox.hpp"
#include "envs/pool.hpp"

namespace pyrl::envs {
namespace {

constexpr std::int64_t steps = 200, guard_size = 4096, alignment = 64;
constexpr std::uint64_t key = 1;

// One action, anywhere in the space; without bounds, of a few units.
void choose(const pyrl_space& space, std::int64_t step, std::byte* action) {
  if (space.kind == PYRL_DISCRETE) {
    const auto words = philox(key, static_cast<std::uint64_t>(step), 2, 0);
    const auto chosen = static_cast<std::int64_t>(uniform_below(words[0], words[1], static_cast<std::uint64_t>(space.shape[0])));
    std::memcpy(action, &chosen, sizeof chosen);
    return;
  }
  const std::int64_t size = bytes_of(space) / static_cast<std::int64_t>(sizeof(float));
  for (std::int64_t i = 0; i < size; ++i) {
    const auto words = philox(key, static_cast<std::uint64_t>(step), 2, static_cast<std::uint32_t>(i));
    const double low = std::max(space.low == nullptr ? -3.0 : space.low[i], -1e3), high = std::min(space.high == nullptr ? 3.0 : space.high[i], 1e3);
    const auto number = static_cast<float>(low + (high - low) * uniform_double(words[0], words[1]));
    std::memcpy(action + i * static_cast<std::int64_t>(sizeof number), &number, sizeof number);
  }
}

}  // namespace

std::string probe(const pyrl_env& env, const std::vector<double>& parameters) {
  Pool pool(env, parameters, 1, env.max_episode_steps, true);
  pool.seed(0, key);
  const std::int64_t shown = pool.observation_bytes();
  std::vector<std::byte> memory(static_cast<std::size_t>(shown + guard_size + alignment)), action(static_cast<std::size_t>(pool.action_bytes()));
  auto* const observation = memory.data() + (alignment - static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(memory.data())) % alignment);
  // What it does not write stays NaN, or no number of a Discrete space.
  const auto blank = [&] {
    if (env.observation.kind == PYRL_DISCRETE) {
      std::memset(observation, 0xff, static_cast<std::size_t>(shown));
    } else if (env.observation.dtype == PYRL_FLOAT32) {
      std::fill_n(reinterpret_cast<float*>(observation), shown / static_cast<std::int64_t>(sizeof(float)), std::numeric_limits<float>::quiet_NaN());
    }
    std::memset(observation + shown, 0xA5, guard_size);
  };
  blank();
  if (Fault fault = pool.reset(nullptr, nullptr, observation)) return fault.text;
  for (std::int64_t i = 0; i < steps; ++i) {
    double reward = 0;
    bool terminated = false, truncated = false;
    std::int64_t ended = 0;
    choose(env.action, i, action.data());
    blank();
    if (Fault fault = pool.step(action.data(), observation, nullptr, &reward, &terminated, &truncated, false, ended)) return fault.text;
    if (ended == 0) continue;
    blank();
    if (Fault fault = pool.reset(nullptr, nullptr, observation)) return fault.text;
  }
  return {};
}

}  // namespace pyrl::envs
