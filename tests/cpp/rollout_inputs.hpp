// Random rollouts for the tests of the returns.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <ostream>

#include "core/philox.hpp"
#include "returns/rollout.hpp"

namespace pyrl::returns {

// Every array is an allocation of its exact size, so that AddressSanitizer sees a read or write one element beyond.
template <class T>
struct Inputs {
  std::int64_t T_, N;
  std::unique_ptr<T[]> reward, value, next_value, final_value, log_prob, behaviour_log_prob;
  std::unique_ptr<bool[]> terminated, truncated, valid;

  Inputs(std::int64_t steps, std::int64_t environments, bool rows) : T_(steps), N(environments) {
    std::uint32_t element = 0;
    const auto numbers = [&](std::int64_t count) {
      auto array = std::make_unique<T[]>(count);
      for (std::int64_t i = 0; i < count; ++i) array[i] = static_cast<T>(uniform_float(philox(7, 0, element++, 0)[0]) - 0.5f);
      return array;
    };
    const auto flags = [&](float probability) {
      auto array = std::make_unique<bool[]>(steps * environments);
      for (std::int64_t i = 0; i < steps * environments; ++i) array[i] = uniform_float(philox(7, 0, element++, 0)[0]) < probability;
      return array;
    };
    const std::int64_t count = steps * environments;
    reward = numbers(count), next_value = numbers(count), final_value = numbers(count);
    log_prob = numbers(count), behaviour_log_prob = numbers(count);
    value = numbers(rows ? count + environments : count);
    terminated = flags(0.1f), truncated = flags(0.1f), valid = flags(0.9f);
    if (rows) {
      next_value.reset();
    } else {
      final_value.reset(), valid.reset();
    }
  }

  RolloutView<T> view() const {
    const std::array<std::int64_t, 2> shape{T_, N};
    return {{reward.get(), shape}, {value.get(), shape}, {next_value.get(), shape}, {final_value.get(), shape},
            {terminated.get(), shape}, {truncated.get(), shape}, {valid.get(), shape}};
  }
};

// What doctest's CAPTURE shows.
template <class T>
std::ostream& operator<<(std::ostream& out, const Inputs<T>& in) {
  return out << sizeof(T) * 8 << " bits, [T, N] = [" << in.T_ << ", " << in.N << "], " << (in.next_value ? "next_value" : "rows");
}

}  // namespace pyrl::returns
