// Rings of many layouts, random steps for them, batches, and what makes two rings the same.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "replay/gpu/ring.hpp"
#include "replay/lane_ring.hpp"

namespace pyrl::replay {

inline std::vector<Column> columns_of(std::vector<std::int64_t> observation, std::vector<std::int64_t> rest, bool linked) {
  std::vector<Column> columns;
  for (auto bytes : observation) columns.push_back({bytes, 1, true});
  if (!linked)
    for (auto bytes : observation) columns.push_back({bytes, 1, false});
  for (auto bytes : rest) columns.push_back({bytes, 1, false});
  return columns;
}

// Environments whose observations are small numbers, so that a stream that breaks off sometimes meets an equal one.
class Feed {
 public:
  Feed(const LaneRing& ring, unsigned seed) : layout_(ring.layout()), options_(ring.options()), random_(seed) {
    const auto lanes = static_cast<std::size_t>(options_.num_lanes);
    for (const Column& column : layout_.columns()) {
      if (column.is_observation) here_.emplace_back(lanes * static_cast<std::size_t>(column.row_bytes), 1);
      if (column.is_observation) there_.push_back(here_.back());
      else rest_.emplace_back(lanes * static_cast<std::size_t>(column.row_bytes), 2);
    }
    if (!options_.linked) rest_.erase(rest_.begin(), rest_.begin() + static_cast<std::ptrdiff_t>(here_.size()));  // next observations stand there
    reward_.resize(lanes);
    for (auto* flags : {&terminated_, &truncated_, &valid_}) flags->resize(lanes);
  }

  // The rows of the next step; with `bad`, some of the rewards are not finite.
  AddArgs next(double end, double broken, bool masked, bool bad = false) {
    const auto lanes = static_cast<std::size_t>(options_.num_lanes);
    std::size_t c = 0;
    for (const Column& column : layout_.columns()) {
      if (!column.is_observation) continue;
      const auto bytes = static_cast<std::size_t>(column.row_bytes);
      for (std::size_t lane = 0; lane < lanes; ++lane) {
        if (!chance(broken)) std::memcpy(&here_[c][lane * bytes], &there_[c][lane * bytes], bytes);
        else scribble(&here_[c][lane * bytes], bytes);
        scribble(&there_[c][lane * bytes], bytes);
      }
      ++c;
    }
    for (auto& rows : rest_) scribble(rows.data(), rows.size());
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      reward_[lane] = std::uniform_real_distribution<float>(-3, 3)(random_);
      if (bad && chance(0.2)) reward_[lane] = chance(0.5) ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
      terminated_[lane] = chance(end);
      truncated_[lane] = chance(end / 2);
      valid_[lane] = !masked || chance(0.8);
    }
    AddArgs args;
    args.observation = pointers(observation_, here_);
    args.next_observation = pointers(next_, there_);
    columns_.clear();
    if (!options_.linked)
      for (auto& rows : there_) columns_.push_back(rows.data());
    for (auto& rows : rest_) columns_.push_back(rows.data());
    args.columns = columns_.data();
    args.reward = reward_.data();
    args.terminated = reinterpret_cast<const bool*>(terminated_.data());
    args.truncated = reinterpret_cast<const bool*>(truncated_.data());
    if (masked) args.valid = reinterpret_cast<const bool*>(valid_.data());
    return args;
  }
  // The mask as it is without the rows that a device leaves out.
  AddArgs without_bad_rewards(AddArgs args) {
    for (std::size_t lane = 0; lane < reward_.size(); ++lane) {
      finite_.resize(reward_.size());
      finite_[lane] = valid_[lane] && std::isfinite(reward_[lane]);
      skipped += valid_[lane] && !finite_[lane];
    }
    args.valid = reinterpret_cast<const bool*>(finite_.data());
    return args;
  }
  bool chance(double p) { return std::uniform_real_distribution<double>(0, 1)(random_) < p; }

  std::int64_t skipped = 0;

 private:
  static const void* const* pointers(std::vector<const void*>& to, std::vector<std::vector<std::uint8_t>>& rows) {
    to.clear();
    for (auto& row : rows) to.push_back(row.data());
    return to.data();
  }
  void scribble(std::uint8_t* to, std::size_t bytes) {
    std::memset(to, static_cast<int>(random_() % 3), bytes);
    to[random_() % bytes] = static_cast<std::uint8_t>(random_() % 2);
  }

  RecordLayout layout_;
  StreamOptions options_;
  std::mt19937 random_;
  std::vector<std::vector<std::uint8_t>> here_, there_, rest_;
  std::vector<const void*> observation_, next_, columns_;
  std::vector<float> reward_;
  std::vector<std::uint8_t> terminated_, truncated_, valid_, finite_;
};

struct Batch {
  Batch(const LaneRing& ring, std::int64_t size) : count(size), index(size, -7), slots(size), reward(size), discount(size), terminated(new bool[size]()) {
    const auto add = [&](const Column& column, std::int64_t frames) { arrays.emplace_back(size * frames * column.row_bytes, 255); };
    const int m = ring.options().frame_stack;
    for (int next = 0; next < (ring.options().linked ? 2 : 1); ++next)
      for (const Column& column : ring.layout().columns())
        if (column.is_observation) add(column, m);
    for (const Column& column : ring.layout().columns())
      if (!column.is_observation) add(column, 1);
    for (auto& array : arrays) pointers.push_back(array.data());
    const auto observations = static_cast<std::size_t>(ring.num_observation_columns());
    args = {slots.data(), size, {ring.options().n_step, m}, pointers.data(), pointers.data() + observations, pointers.data() + (ring.options().linked ? 2 : 1) * observations,
            reward.data(), terminated.get(), discount.data()};
  }
  friend bool operator==(const Batch& a, const Batch& b) {
    return a.index == b.index && a.arrays == b.arrays && std::memcmp(a.reward.data(), b.reward.data(), a.reward.size() * 4) == 0 &&
           std::memcmp(a.discount.data(), b.discount.data(), a.discount.size() * 4) == 0 &&
           std::memcmp(a.terminated.get(), b.terminated.get(), static_cast<std::size_t>(a.count)) == 0;
  }

  std::int64_t count;
  std::vector<std::int64_t> index, slots;
  std::vector<std::vector<std::uint8_t>> arrays;
  std::vector<void*> pointers;
  std::vector<float> reward, discount;
  std::unique_ptr<bool[]> terminated;
  GatherArgs args;
};

inline std::vector<OpenedWindow> working_memory(std::int64_t count) {
  return std::vector<OpenedWindow>(static_cast<std::size_t>(DeviceRing::workspace_bytes(count)) / sizeof(OpenedWindow) + 1);
}

inline bool same(const LaneRing& a, const LaneRing& b) {
  const RingState x = a.state(a.lane_capacity()), y = b.state(b.lane_capacity());
  if (a.size() != b.size() || x.origins != y.origins || x.heads != y.heads || x.pending != y.pending || x.flags != y.flags) return false;
  for (std::int64_t lane = 0; lane < a.options().num_lanes; ++lane)
    for (std::int64_t p = std::max(x.origins[lane], x.heads[lane] - a.lane_capacity()); p < x.heads[lane]; ++p) {
      const std::int64_t slot = a.view().slot(lane, p);
      const bool whole = (a.view().flags[slot] & flag::transition) != 0;  // a tail has nothing but its observation
      if (whole && std::memcmp(a.view().record(slot), b.view().record(slot), sizeof(float)) != 0) return false;
      for (const Column& column : a.layout().columns())
        if ((whole || column.is_observation) && std::memcmp(a.row(column, slot), b.row(column, slot), static_cast<std::size_t>(column.row_bytes)) != 0) return false;
    }
  return true;
}

struct Case {
  std::vector<std::int64_t> observation, rest;
  StreamOptions options;
};

inline std::vector<Case> cases() {
  std::vector<Case> list;
  const std::vector<std::pair<std::vector<std::int64_t>, std::vector<std::int64_t>>> rows = {
      {{16}, {8}}, {{3}, {1}}, {{784}, {8}}, {{600, 20, 5}, {1, 515, 4}}, {{1}, {}}};
  unsigned k = 0;
  for (const auto& [observation, rest] : rows)
    for (std::int64_t lanes : {1, 3, 8})
      for (int variant = 0; variant < 4; ++variant) {
        StreamOptions options;
        options.num_lanes = lanes;
        options.linked = variant != 3;
        options.n_step = options.linked ? 1 + static_cast<int>(k % 3) : 1;
        options.frame_stack = variant == 0 || !options.linked ? 1 : 1 + static_cast<int>(k % 4);
        options.pad_with_zeros = variant == 2;
        options.gamma = 0.97;
        options.capacity = lanes * (options.n_step + options.frame_stack + static_cast<std::int64_t>(k * 7 % 40));
        list.push_back({observation, rest, options});
        ++k;
      }
  return list;
}

}  // namespace pyrl::replay
