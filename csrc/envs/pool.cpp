#include "envs/pool.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <new>

#include "core/check.hpp"
#include "core/interrupt.hpp"
#include "core/parallel.hpp"
#include "core/philox.hpp"

namespace pyrl::envs {
namespace {

constexpr std::size_t alignment = 64;
constexpr std::int64_t grain = 256;     // environments for which another thread pays
constexpr std::int64_t between = 16;    // environments between two checks whether to stop
constexpr std::int64_t guard_size = 4096;  // bytes
constexpr std::byte guard_byte{0xA5};
constexpr std::int64_t most_bytes = std::int64_t{1} << 32;
enum Purpose : std::uint32_t { for_step, for_reset };

std::int64_t stride_of(std::uint64_t state_size, bool guarded) {
  const auto size = static_cast<std::int64_t>((state_size + alignment - 1) / alignment * alignment);
  return std::max(size, static_cast<std::int64_t>(alignment)) + (guarded ? guard_size : 0);
}

void draw(std::uint64_t key, std::uint64_t step, Purpose purpose, std::uint32_t count, double* uniform) {
  for (std::uint32_t i = 0; i < count; i += 2) {
    const PhiloxBlock words = philox(key, step, purpose, i / 2);
    uniform[i] = uniform_double(words[0], words[1]);
    if (i + 1 < count) uniform[i + 1] = uniform_double(words[2], words[3]);
  }
}

std::int64_t numbers_of(const pyrl_space& space) {
  std::int64_t count = 1;
  for (int axis = 0; axis < space.rank; ++axis) count *= space.shape[axis];
  return count;
}

void check_space(const pyrl_space& space, const char* name, bool is_action, const std::string& where) {
  PYRL_CHECK(space.kind == PYRL_BOX || space.kind == PYRL_DISCRETE, ArgumentError, where, ": the kind of the space ", name, " is ", space.kind,
             ", expected PYRL_BOX (1) or PYRL_DISCRETE (2)");
  PYRL_CHECK(space.rank >= 0 && space.rank <= 4, ArgumentError, where, ": the rank of the space ", name, " is ", space.rank, ", expected 0 to 4");
  if (space.kind == PYRL_DISCRETE) {
    PYRL_CHECK(space.rank == 0 && space.dtype == PYRL_INT64 && space.shape[0] >= 1, ArgumentError, where, ": the space ", name, " is Discrete of ",
               space.shape[0], ", rank ", space.rank, " and dtype ", space.dtype, ", expected shape[0] of at least 1, rank 0 and PYRL_INT64 (3)");
    return;
  }
  PYRL_CHECK(space.dtype == PYRL_FLOAT32 || (space.dtype == PYRL_UINT8 && !is_action), ArgumentError, where, ": the dtype of the space ", name, " is ",
             space.dtype, ", expected PYRL_FLOAT32 (1)", is_action ? "" : " or PYRL_UINT8 (2)");
  std::int64_t size = 1;
  for (int axis = 0; axis < space.rank; ++axis) {
    PYRL_CHECK(space.shape[axis] >= 1 && space.shape[axis] <= most_bytes / size / 8, ArgumentError, where, ": shape[", axis, "] of the space ", name, " is ",
               space.shape[axis], ", expected at least 1, and no more than memory holds");
    size *= space.shape[axis];
  }
}

}  // namespace

std::int64_t bytes_of(const pyrl_space& space) {
  if (space.kind == PYRL_DISCRETE) return sizeof(std::int64_t);
  return numbers_of(space) * (space.dtype == PYRL_UINT8 ? 1 : static_cast<std::int64_t>(sizeof(float)));
}

void check_description(const pyrl_env& env, const std::string& where) {
  PYRL_CHECK(env.version == PYRL_ENV_VERSION, ArgumentError, where, ": it was compiled with version ", env.version,
             " of pyrl_env.h, expected ", PYRL_ENV_VERSION, "; compile it with the header in pyrl.envs.include_dir()");
  PYRL_CHECK(env.struct_size == sizeof(pyrl_env), ArgumentError, where, ": struct_size is ", env.struct_size, ", expected sizeof(pyrl_env) = ",
             sizeof(pyrl_env));
  check_space(env.observation, "observation", false, where);
  check_space(env.action, "action", true, where);
  PYRL_CHECK(env.state_size <= static_cast<std::uint64_t>(most_bytes), ArgumentError, where, ": state_size is ", env.state_size, ", expected at most 2^32 bytes");
  for (const auto& [name, count] : {std::pair{"reset_uniforms", env.reset_uniforms}, std::pair{"step_uniforms", env.step_uniforms}})
    PYRL_CHECK(count <= PYRL_MAX_UNIFORMS, ArgumentError, where, ": ", name, " is ", count, ", expected at most ", PYRL_MAX_UNIFORMS);
  PYRL_CHECK(env.num_parameters == 0 || (env.parameter_names != nullptr && env.parameters != nullptr), ArgumentError, where, ": num_parameters is ",
             env.num_parameters, ", but there are no names or no values");
  PYRL_CHECK(env.reset != nullptr && env.step != nullptr, ArgumentError, where, ": reset or step is NULL");
  PYRL_CHECK(env.open != nullptr || env.close == nullptr, ArgumentError, where, ": there is a close, but no open");
}

void Pool::Deleter::operator()(std::byte* memory) const { ::operator delete(memory, std::align_val_t{alignment}); }

Pool::Pool(const pyrl_env& env, std::vector<double> parameters, std::int64_t count, std::int64_t limit, bool guarded)
    : env_(env), parameters_(std::move(parameters)), limit_(limit), observation_bytes_(bytes_of(env.observation)), action_bytes_(bytes_of(env.action)),
      stride_(stride_of(env.state_size, guarded)), guarded_(guarded), places_(static_cast<std::size_t>(count)) {
  const auto size = static_cast<std::size_t>(stride_ * count);
  states_.reset(static_cast<std::byte*>(::operator new(size, std::align_val_t{alignment})));
  std::memset(states_.get(), 0, size);
  for (std::int64_t i = 0; i < count && guarded_; ++i) {
    auto* const own = static_cast<std::byte*>(state(i));
    std::fill(own + env_.state_size, own + stride_, guard_byte);
  }
  for (; env_.open != nullptr && opened_ < count; ++opened_) {
    const std::int32_t code = env_.open(state(opened_), parameters_.data(), static_cast<std::uint64_t>(opened_));
    if (code == 0) continue;
    for (std::int64_t i = 0; i < opened_ && env_.close != nullptr; ++i) env_.close(state(i));
    throw ArgumentError(concat("environment ", opened_, ": open returned ", code, ", expected 0"));
  }
}

Pool::~Pool() {
  for (std::int64_t i = 0; i < opened_ && env_.close != nullptr; ++i) env_.close(state(i));
}

template <class Body>
Fault Pool::for_each(std::uint32_t uniforms, const Body& body) {
  Fault first;
  std::mutex mutex;
  parallel_for(count(), grain, [&](std::int64_t begin, std::int64_t end) {
    double few[8];
    std::unique_ptr<double[]> many;
    if (uniforms > 8) many.reset(new double[uniforms]);
    double* const uniform = many ? many.get() : few;
    for (std::int64_t i = begin; i < end; ++i) {
      if ((i - begin) % between == 0) check_interrupt();
      std::string text = body(i, uniform);
      if (text.empty()) continue;
      const std::lock_guard<std::mutex> held(mutex);
      if (!first || i < first.env) first = {i, std::move(text)};
      return;
    }
  });
  return first;
}

Fault Pool::reset(const bool* mask, const double* parameters, void* observation) {
  const double* const values = parameters == nullptr ? parameters_.data() : parameters;
  return for_each(env_.reset_uniforms, [&](std::int64_t i, double* uniform) {
    if (mask != nullptr && !mask[i]) return std::string();
    return reset_one(i, values, uniform, static_cast<std::byte*>(observation) + i * observation_bytes_);
  });
}

Fault Pool::step(const void* action, void* following, void* after, double* reward, bool* terminated, bool* truncated, bool restart, std::int64_t& ended) {
  auto* const shown = static_cast<std::byte*>(following);
  Fault fault = for_each(env_.step_uniforms, [&](std::int64_t i, double* uniform) {
    return step_one(i, static_cast<const std::byte*>(action) + i * action_bytes_, uniform, shown + i * observation_bytes_, reward + i, terminated + i,
                    truncated + i);
  });
  ended = 0;
  if (fault) return fault;
  for (std::int64_t i = 0; i < count(); ++i) ended += terminated[i] || truncated[i] ? 1 : 0;
  if (ended == 0 || !restart) return fault;
  std::memcpy(after, following, static_cast<std::size_t>(count() * observation_bytes_));
  return for_each(env_.reset_uniforms, [&](std::int64_t i, double* uniform) {
    if (!terminated[i] && !truncated[i]) return std::string();
    return reset_one(i, parameters_.data(), uniform, static_cast<std::byte*>(after) + i * observation_bytes_);
  });
}

std::string Pool::reset_one(std::int64_t env, const double* parameters, double* uniform, std::byte* observation) {
  Place& place = places_[static_cast<std::size_t>(env)];
  draw(place.key, place.step, for_reset, env_.reset_uniforms, uniform);
  place.length = 0;
  const std::int32_t code = env_.reset(state(env), parameters, uniform, observation);
  // Resets without a step between them have numbers of their own.
  ++place.step;
  if (code != 0) return concat("reset returned ", code, ", expected 0");
  if (guarded_) {
    if (std::string text = guard_fault("reset", env, observation); !text.empty()) return text;
  }
  return observation_fault("reset", observation);
}

std::string Pool::step_one(std::int64_t env, const void* action, double* uniform, std::byte* observation, double* reward, bool* terminated, bool* truncated) {
  Place& place = places_[static_cast<std::size_t>(env)];
  if (env_.step_uniforms > 0) draw(place.key, place.step, for_step, env_.step_uniforms, uniform);
  ++place.step;
  ++place.length;
  std::uint8_t flags[2] = {0, 0};
  *reward = 0;
  const std::int32_t code = env_.step(state(env), parameters_.data(), uniform, action, observation, reward, flags);
  if (code != 0) return concat("step returned ", code, ", expected 0");
  if (!std::isfinite(*reward)) return concat("step returned the reward ", *reward, ", expected a finite number");
  if (flags[0] > 1 || flags[1] > 1) return concat("step: ended is {", int{flags[0]}, ", ", int{flags[1]}, "}, expected 0 or 1 each");
  *terminated = flags[0] != 0;
  *truncated = flags[1] != 0 || (limit_ > 0 && place.length >= limit_);
  if (guarded_) {
    if (std::string text = guard_fault("step", env, observation); !text.empty()) return text;
  }
  return observation_fault("step", observation);
}

std::string Pool::observation_fault(const char* function, const std::byte* observation) const {
  if (env_.observation.kind == PYRL_DISCRETE) {
    std::int64_t value;
    std::memcpy(&value, observation, sizeof value);
    if (value >= 0 && value < env_.observation.shape[0]) return {};
    return concat(function, ": observation is ", value, ", expected at least 0 and less than ", env_.observation.shape[0]);
  }
  if (env_.observation.dtype != PYRL_FLOAT32) return {};
  const auto* const numbers = reinterpret_cast<const float*>(observation);
  const std::int64_t size = observation_bytes_ / static_cast<std::int64_t>(sizeof(float));
  float zeros = 0;
  for (std::int64_t i = 0; i < size; ++i) zeros += numbers[i] * 0.0f;  // NaN * 0 and infinity * 0 are NaN
  if (zeros == 0.0f) return {};
  const auto at = std::find_if(numbers, numbers + size, [](float number) { return !std::isfinite(number); }) - numbers;
  return concat(function, " returned an observation that is not finite: number ", at, " is ", numbers[at]);
}

std::string Pool::guard_fault(const char* function, std::int64_t env, const std::byte* observation) const {
  const auto wrong = [](const std::byte* from, const std::byte* to) {
    const auto* last = to;
    while (last != from && last[-1] == guard_byte) --last;
    return last - from;
  };
  const auto* const own = static_cast<const std::byte*>(state(env));
  if (const auto beyond = wrong(own + env_.state_size, own + stride_); beyond > 0)
    return concat(function, " wrote ", beyond, " bytes beyond the state, whose state_size is ", env_.state_size);
  const auto* const end = observation + observation_bytes_;
  if (const auto beyond = wrong(end, end + guard_size); beyond > 0)
    return concat(function, " wrote ", beyond, " bytes beyond the observation, whose space has ", observation_bytes_, " bytes");
  return {};
}

void Pool::save(std::int64_t env, std::byte* to) const {
  std::memcpy(to, &places_[static_cast<std::size_t>(env)], sizeof(Place));
  std::memcpy(to + sizeof(Place), state(env), env_.state_size);
}

void Pool::load(std::int64_t env, const std::byte* from) {
  std::memcpy(&places_[static_cast<std::size_t>(env)], from, sizeof(Place));
  std::memcpy(state(env), from + sizeof(Place), env_.state_size);
}

}  // namespace pyrl::envs
