// The numbers that a stepper keeps of N environments: returns, clocks, time limits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace pyrl::envs {

class StepBook {
 public:
  static constexpr std::int64_t never = std::int64_t{1} << 62;  // a limit, and a clock can still be added to it

  explicit StepBook(std::vector<std::int64_t> limits) : limits_(std::move(limits)), starts_(limits_.size()), returns_(limits_.size()) { put_off({}); }

  std::int64_t size() const { return static_cast<std::int64_t>(limits_.size()); }
  std::int64_t clock() const { return clock_; }
  std::int64_t age(std::size_t i) const { return clock_ - starts_[i]; }

  // New episodes everywhere.
  void reset() {
    std::fill(starts_.begin(), starts_.end(), clock_);
    std::fill(returns_.begin(), returns_.end(), 0.0);
    put_off({});
  }

  std::span<const double> returns() const { return returns_; }

  // Unfinished episodes: their returns so far, and how many steps they have made.
  void load(std::vector<double> returns, std::span<const std::int64_t> ages) {
    returns_ = std::move(returns);
    for (std::size_t i = 0; i < starts_.size(); ++i) starts_[i] = clock_ - ages[i];
    put_off({});
  }

  // One step of all environments. False, and nothing is booked, if a reward is not finite.
  bool book(std::span<const double> reward) {
    for (const double r : reward)
      if (!std::isfinite(r)) return false;
    for (std::size_t i = 0; i < returns_.size(); ++i) returns_[i] += reward[i];
    tick();
    return true;
  }
  void tick() { ++clock_; }

  // Whether a time limit may have struck: no limit does before.
  bool due() const { return clock_ >= deadline_; }
  bool over(std::size_t i) const { return age(i) >= limits_[i]; }

  // The next time that a limit may strike, if the environments `ended` start anew now. Later starts only put it off, so it need not
  // follow every one of them.
  void put_off(std::span<const std::uint8_t> ended) {
    deadline_ = never;
    for (std::size_t i = 0; i < limits_.size(); ++i)
      deadline_ = std::min(deadline_, limits_[i] + (!ended.empty() && ended[i] ? clock_ : starts_[i]));
  }

  // The return of the episode in environment i, which ends; the next begins at `next_start`.
  double finish(std::size_t i, std::int64_t next_start) {
    starts_[i] = next_start;
    return std::exchange(returns_[i], 0.0);
  }

 private:
  std::vector<std::int64_t> limits_, starts_;
  std::vector<double> returns_;
  std::int64_t clock_ = 0, deadline_ = never;
};

}  // namespace pyrl::envs
