// N environments of one kind: their states, their random numbers, their episodes.
//
// The numbers of a call are words of Philox: key = the environment's seed, draw = the number of its step since it was seeded,
// element 0 for `step` and 1 for `reset`. So an episode does not depend on the number of threads, nor on the other environments.
//
// observation: N rows of observation_bytes; action: N rows of action_bytes. Not for two threads at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "pyrl_env.h"

namespace pyrl::envs {

// What an environment did that it may not do; `text` says it in words, empty: nothing.
struct Fault {
  std::int64_t env = -1;
  std::string text;

  explicit operator bool() const { return env >= 0; }
};

// Throws ArgumentError, which begins with `where`, for a description that cannot be one.
void check_description(const pyrl_env& env, const std::string& where);
std::int64_t bytes_of(const pyrl_space& space);

class Pool {
 public:
  // `env` and what it points to must outlive the pool. limit: steps of an episode, 0 for none.
  // guarded: guard bytes follow each state and observation, and are checked after each call.
  Pool(const pyrl_env& env, std::vector<double> parameters, std::int64_t count, std::int64_t limit, bool guarded = false);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  std::int64_t count() const { return static_cast<std::int64_t>(places_.size()); }
  const pyrl_env& env() const { return env_; }
  std::int64_t observation_bytes() const { return observation_bytes_; }
  std::int64_t action_bytes() const { return action_bytes_; }

  void seed(std::int64_t env, std::uint64_t key) { places_[static_cast<std::size_t>(env)] = {key, 0, 0}; }
  // Those of `mask` (all if it is null), with other parameters for this call if they are not null.
  Fault reset(const bool* mask, const double* parameters, void* observation);
  // Every environment. What it shows goes to `following`; where episodes ended, `after` gets all of that too, but the first observation
  // of the next episode where one ended. Returns how many ended through `ended`. restart: whether they are reset at all.
  Fault step(const void* action, void* following, void* after, double* reward, bool* terminated, bool* truncated, bool restart, std::int64_t& ended);

  // For states that are plain bytes. The rows of a state: key, step, length, then the environment's own bytes.
  bool can_copy() const { return env_.open == nullptr; }
  std::int64_t copy_bytes() const { return static_cast<std::int64_t>(sizeof(Place) + env_.state_size); }
  void save(std::int64_t env, std::byte* to) const;
  void load(std::int64_t env, const std::byte* from);
  void* state(std::int64_t env) const { return states_.get() + env * stride_; }

 private:
  struct Place {
    std::uint64_t key = 0, step = 0;
    std::int64_t length = 0;  // of the episode
  };
  struct Deleter {
    void operator()(std::byte* memory) const;
  };

  std::string reset_one(std::int64_t env, const double* parameters, double* uniform, std::byte* observation);
  std::string step_one(std::int64_t env, const void* action, double* uniform, std::byte* observation, double* reward, bool* terminated, bool* truncated);
  std::string observation_fault(const char* function, const std::byte* observation) const;
  std::string guard_fault(const char* function, std::int64_t env, const std::byte* observation) const;
  // Calls body(env, uniform), which returns a fault's text, for all of them.
  template <class Body>
  Fault for_each(std::uint32_t uniforms, const Body& body);

  const pyrl_env env_;
  const std::vector<double> parameters_;
  const std::int64_t limit_, observation_bytes_, action_bytes_, stride_;
  const bool guarded_;
  std::int64_t opened_ = 0;
  std::vector<Place> places_;
  std::unique_ptr<std::byte, Deleter> states_;
};

}  // namespace pyrl::envs
