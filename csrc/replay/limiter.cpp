#include "replay/limiter.hpp"

#include <chrono>
#include <cmath>

#include "core/check.hpp"

namespace pyrl::replay {
namespace {

const LimiterOptions& checked(const LimiterOptions& o) {
  const auto positive = [](const char* name, std::int64_t value) {
    PYRL_CHECK(value >= 1, ArgumentError, "RateLimiter: ", name, " is ", value, ", expected at least 1");
  };
  PYRL_CHECK(std::isfinite(o.samples_per_insert) && o.samples_per_insert > 0, ArgumentError, "RateLimiter: samples_per_insert is ", o.samples_per_insert,
             ", expected a positive number");
  positive("min_size", o.min_size);
  positive("insert_size", o.insert_size);
  positive("sample_size", o.sample_size);
  const double least = RateLimiter::least_buffer(o);
  PYRL_CHECK(std::isfinite(o.error_buffer) && o.error_buffer >= least, ArgumentError, "RateLimiter: error_buffer is ", o.error_buffer, ", expected at least ", least,
             ": with less, an insert of ", o.insert_size, " and a draw of ", o.sample_size, " at ", o.samples_per_insert,
             " samples per insert could wait for each other for ever");
  return o;
}

}  // namespace

RateLimiter::RateLimiter(const LimiterOptions& options)
    : options_(checked(options)), middle_(static_cast<double>(options.min_size) * options.samples_per_insert) {}

double RateLimiter::least_buffer(const LimiterOptions& o) {
  return (static_cast<double>(o.insert_size) * o.samples_per_insert + static_cast<double>(o.sample_size) + 1) / 2;
}

bool RateLimiter::may_insert(std::int64_t count) const {
  const double drift = static_cast<double>(reserved_ + count) * options_.samples_per_insert - static_cast<double>(samples_) - middle_;
  return !stopped_ && (reserved_ < options_.min_size || drift <= options_.error_buffer);
}

bool RateLimiter::may_sample(std::int64_t count) const {
  const double drift = static_cast<double>(inserts_) * options_.samples_per_insert - static_cast<double>(samples_ + count) - middle_;
  return !stopped_ && inserts_ >= options_.min_size && drift >= -options_.error_buffer;
}

template <class Allowed>
bool RateLimiter::wait(std::unique_lock<std::mutex>& held, double seconds, const Allowed& allowed) {
  if (seconds > 0) changed_.wait_for(held, std::chrono::duration<double>(seconds), [&] { return stopped_ || allowed(); });
  return allowed();
}

bool RateLimiter::begin_insert(std::int64_t count, double seconds) {
  PYRL_CHECK(count >= 0 && count <= options_.insert_size, ArgumentError, "RateLimiter: an insert of ", count, ", expected at most insert_size = ",
             options_.insert_size);
  std::unique_lock held(mutex_);
  if (!wait(held, seconds, [&] { return may_insert(count); })) return false;
  reserved_ += count;
  return true;
}

void RateLimiter::end_insert(std::int64_t count, bool stored) {
  {
    const std::lock_guard held(mutex_);
    PYRL_CHECK(count >= 0 && count <= reserved_ - inserts_, ArgumentError, "RateLimiter: ", count, " are stored or not, but ", reserved_ - inserts_,
               " are being inserted");
    if (stored) {
      inserts_ += count;
    } else {
      reserved_ -= count;
    }
  }
  changed_.notify_all();
}

bool RateLimiter::sample(std::int64_t count, double seconds) {
  PYRL_CHECK(count >= 0 && count <= options_.sample_size, ArgumentError, "RateLimiter: a draw of ", count, ", expected at most sample_size = ",
             options_.sample_size);
  {
    std::unique_lock held(mutex_);
    if (!wait(held, seconds, [&] { return may_sample(count); })) return false;
    samples_ += count;
  }
  changed_.notify_all();
  return true;
}

bool RateLimiter::can_insert(std::int64_t count) const {
  const std::lock_guard held(mutex_);
  return may_insert(count);
}

bool RateLimiter::can_sample(std::int64_t count) const {
  const std::lock_guard held(mutex_);
  return may_sample(count);
}

void RateLimiter::stop() {
  {
    const std::lock_guard held(mutex_);
    stopped_ = true;
  }
  changed_.notify_all();
}

void RateLimiter::resume() {
  {
    const std::lock_guard held(mutex_);
    stopped_ = false;
  }
  changed_.notify_all();
}

bool RateLimiter::stopped() const {
  const std::lock_guard held(mutex_);
  return stopped_;
}

std::int64_t RateLimiter::inserts() const {
  const std::lock_guard held(mutex_);
  return inserts_;
}

std::int64_t RateLimiter::samples() const {
  const std::lock_guard held(mutex_);
  return samples_;
}

void RateLimiter::set_counts(std::int64_t inserts, std::int64_t samples) {
  PYRL_CHECK(inserts >= 0 && samples >= 0, ArgumentError, "RateLimiter: counts are ", inserts, " and ", samples, ", expected none below 0");
  {
    const std::lock_guard held(mutex_);
    PYRL_CHECK(reserved_ == inserts_, ArgumentError, "RateLimiter: counts cannot be set while ", reserved_ - inserts_, " are being inserted");
    reserved_ = inserts_ = inserts;
    samples_ = samples;
  }
  changed_.notify_all();
}

}  // namespace pyrl::replay
