// Keeps the rate at which experience is drawn at a ratio to the rate at which it comes in (as the rate limiter of Reverb, Cassirer et al. 2021).
//
// drift = inserts * samples_per_insert - samples, from what it is when min_size is reached. An insert waits while it would lift the drift above
// +error_buffer, a draw while it would push it below -error_buffer; before min_size, inserts are free and draws wait.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace pyrl::replay {

struct LimiterOptions {
  double samples_per_insert = 1;
  std::int64_t min_size = 1;    // inserts before the first draw
  double error_buffer = 0;      // in samples
  std::int64_t insert_size = 1, sample_size = 1;  // the most of one insert, of one draw
};

// Any thread may call anything.
class RateLimiter {
 public:
  // ArgumentError for settings by which an insert and a draw could wait for each other for ever.
  explicit RateLimiter(const LimiterOptions& options);

  // The error_buffer from which on neither can wait for the other for ever. Both wait only if drift > buffer - insert_size * samples_per_insert
  // and drift < sample_size - buffer; one sample more covers rounding.
  static double least_buffer(const LimiterOptions& options);

  // Whether `count` may be inserted, after a wait of at most so long: then they are reserved, until end_insert says that they are stored, and may be
  // drawn, or were not.
  bool begin_insert(std::int64_t count, double seconds);
  void end_insert(std::int64_t count, bool stored);
  // Whether `count` may be drawn, after a wait of at most so long: then they count as drawn.
  bool sample(std::int64_t count, double seconds);
  // What the two would say now, without a wait.
  bool can_insert(std::int64_t count) const;
  bool can_sample(std::int64_t count) const;

  // From here on nothing may be inserted or drawn, and nobody waits, until resume().
  void stop();
  void resume();
  bool stopped() const;

  std::int64_t inserts() const;
  std::int64_t samples() const;
  void set_counts(std::int64_t inserts, std::int64_t samples);
  const LimiterOptions& options() const { return options_; }

 private:
  bool may_insert(std::int64_t count) const;
  bool may_sample(std::int64_t count) const;
  template <class Allowed>
  bool wait(std::unique_lock<std::mutex>& held, double seconds, const Allowed& allowed);

  const LimiterOptions options_;
  const double middle_;  // inserts * samples_per_insert - samples, where the drift is 0
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::int64_t reserved_ = 0, inserts_ = 0, samples_ = 0;  // reserved: with those that are being stored
  bool stopped_ = false;
};

}  // namespace pyrl::replay
