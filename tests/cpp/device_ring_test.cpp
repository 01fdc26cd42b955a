// A ring on a device that is the CPU: the same records, draws and batches as a LaneRing's, whatever the order of threads and streams.
#include <doctest/doctest.h>

#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "core/check.hpp"
#include "replay/device_ring.hpp"
#include "replay/host_ring_device.hpp"
#include "replay/priorities.hpp"

using namespace pyrl;
using namespace pyrl::replay;

namespace {

const CudaStream stream{"test", 0, nullptr};

std::vector<Column> columns_of(std::vector<std::int64_t> observation, std::vector<std::int64_t> rest, bool linked) {
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
    args = {slots.data(), size, pointers.data(), pointers.data() + observations, pointers.data() + (ring.options().linked ? 2 : 1) * observations,
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

std::vector<OpenedWindow> working_memory(std::int64_t count) {
  return std::vector<OpenedWindow>(static_cast<std::size_t>(DeviceRing::space_bytes(count)) / sizeof(OpenedWindow) + 1);
}

bool same(const LaneRing& a, const LaneRing& b) {
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

std::vector<Case> cases() {
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

enum class Way { journal, mirror, arrays };

// Steps, samples, searches, clears and changes of place in a random order, each compared with a LaneRing that goes through the same.
void follow(const Case& wanted, Way way, bool lazy, unsigned seed) {
  LaneRing host(columns_of(wanted.observation, wanted.rest, wanted.options.linked), wanted.options);
  auto owned = std::make_unique<HostRingDevice>(lazy);
  HostRingDevice& device = *owned;
  DeviceRing ring(host, std::move(owned), stream, 1 << 12);
  RandomStream random{77, 0};
  ring.set_random(random, stream);
  Feed feed(host, seed);
  const std::int64_t lanes = wanted.options.num_lanes;
  std::vector<Outcome> outcome(static_cast<std::size_t>(lanes));
  std::int64_t sent = 0, rows = 0;
  const auto whole_words = [](std::int64_t bytes) { return (bytes + 3) / 4 * 4; };
  const std::int64_t observation_bytes = whole_words(host.layout().observation_bytes()), others = whole_words(4 + host.layout().rest_bytes());
  const auto add = [&](bool masked, bool bad) {
    AddArgs args = feed.next(0.15, 0.1, masked, bad);
    const AddArgs on_device = args;
    if (way == Way::arrays) args = feed.without_bad_rewards(args);
    args.outcome = outcome.data();
    REQUIRE(host.add(args) == -1);
    if (way == Way::arrays) {
      ring.add_arrays(on_device, stream);
      device.wait(stream);  // the next step writes over its rows
      return;
    }
    ring.add(args, way == Way::mirror ? outcome.data() : nullptr, stream);
    rows += lanes;
    for (const Outcome became : outcome) {
      if (became == Outcome::absent) continue;
      const bool with_observation = way == Way::journal || became == Outcome::begins;
      sent += others + (with_observation ? observation_bytes : 0) + (wanted.options.linked ? observation_bytes : 0);
    }
  };
  for (int step = 0; step < 60; ++step) {
    for (int times = step % 4 * 5; times >= 0; --times) add(step % 3 == 0, way == Way::arrays && step % 5 == 0);
    if (way != Way::arrays) CHECK(ring.least_size() <= host.size());  // of those it believes in too many, until it looks
    if (step % 7 == 3) {
      LaneRing copy(host.layout().columns(), host.options());
      ring.download(copy, true, stream);
      REQUIRE(same(host, copy));
      CHECK(ring.size(stream) == host.size());
      CHECK(ring.least_size() <= host.size());
    }
    if (step % 13 == 12) {
      ring.clear(stream);
      host.clear();
    }
    if (step % 17 == 16) {
      LaneRing other(host.layout().columns(), host.options());
      ring.download(other, true, stream);
      ring.upload(other, stream);
    }
    if (host.size() == 0) continue;
    Batch want(host, 33), got(host, 33);
    host.draw({random.key, random.next_draw()}, want.count, want.index.data(), want.slots.data());
    gather(host, want.args);
    std::vector<OpenedWindow> space = working_memory(33), drawn = working_memory(33);
    std::int64_t* const found = DeviceRing::slots_in(space.data(), 33);
    // By name, some of which are stale.
    std::vector<std::int64_t> names = want.index, slots(33);
    for (std::size_t i = 0; i < names.size(); i += 1 + i % 5) names[i] = static_cast<std::int64_t>(i * 13) - 2;
    ring.find(names.data(), 33, found, stream);
    CHECK(ring.stale(stream) == host.find(names.data(), 33, slots.data()));
    for (std::size_t i = 0; i < names.size(); ++i) CHECK(found[i] == slots[i]);
    ring.find(want.index.data(), 33, found, stream);
    Batch named(host, 33);
    named.index = want.index;
    named.args.slots = found;
    ring.gather(named.args, space.data(), stream);
    // What is added before the batches are ready is not in them.
    ring.sample(got.args, got.index.data(), drawn.data(), stream);
    add(step % 2 == 0, false);
    ring.flush(stream);
    device.wait(stream);
    REQUIRE(want == named);
    REQUIRE(want == got);
  }
  ring.flush(stream);
  if (way != Way::arrays) CHECK(ring.bytes_copied() == sent + 4 * rows);
  CHECK(ring.random(stream).draw == random.draw);
}

void follow_all(Way way) {
  unsigned seed = 1;
  for (const Case& wanted : cases()) {
    follow(wanted, way, seed % 2 == 0, seed);
    ++seed;
  }
}

}  // namespace

TEST_CASE("CUDA: a ring on a device that compares rows itself is the CPU's") {
  follow_all(Way::journal);
}

TEST_CASE("CUDA: a mirror that is told what became of each row is the ring it mirrors, and only new records are sent") {
  follow_all(Way::mirror);
}

TEST_CASE("CUDA: rows on the device go into the ring there; those whose reward is not finite do not") {
  follow_all(Way::arrays);
}

TEST_CASE("CUDA: draws by priority, their weights and new records' leaves are the CPU's") {
  unsigned seed = 1;
  for (const Case& wanted : cases()) {
    LaneRing host(columns_of(wanted.observation, wanted.rest, wanted.options.linked), wanted.options);
    Priorities priorities(host.num_slots(), {0.7, 1e-3});
    auto owned = std::make_unique<HostRingDevice>(seed % 2 == 0);
    HostRingDevice& device = *owned;
    DeviceRing ring(host, std::move(owned), stream);
    host.set_observer(&priorities);
    ring.prioritize({0.7, 1e-3}, stream);
    RandomStream random{77, 0};
    ring.set_random(random, stream);
    Feed feed(host, ++seed);
    std::vector<Outcome> outcome(static_cast<std::size_t>(wanted.options.num_lanes));
    std::int64_t stale = 0;
    for (int step = 0; step < 40; ++step) {
      AddArgs args = feed.next(0.15, 0.1, step % 3 == 0);
      args.outcome = outcome.data();
      REQUIRE(host.add(args) == -1);
      ring.add(args, seed % 3 == 0 ? outcome.data() : nullptr, stream);
      if (step == 30) {
        host.clear();
        ring.clear(stream);
      }
      const auto same_leaves = [&] {
        const std::vector<double> leaves = ring.leaves(stream);
        for (std::int64_t slot = 0; slot < host.num_slots(); ++slot)
          if (leaves[static_cast<std::size_t>(slot)] != priorities.tree().get(slot)) return false;
        return true;
      };
      REQUIRE(same_leaves());
      if (host.size() == 0) continue;
      Batch want(host, 17), got(host, 17);
      std::vector<float> want_weight(17), got_weight(17);
      std::vector<OpenedWindow> space = working_memory(17);
      priorities.draw({random.key, random.next_draw()}, 17, 0.4, step % 2 == 0, want.slots.data(), want_weight.data());
      for (std::size_t i = 0; i < 17; ++i) want.index[i] = host.name_of(want.slots[i]);
      gather(host, want.args);
      ring.sample_prioritized(got.args, got.index.data(), 0.4, step % 2 == 0, got_weight.data(), space.data(), stream);
      device.wait(stream);
      REQUIRE(want == got);
      CHECK(std::memcmp(want_weight.data(), got_weight.data(), 17 * sizeof(float)) == 0);
      // New priorities, some for records that never were.
      std::vector<float> priority(17);
      std::vector<std::int64_t> names = want.index, slots(17), space_slots(17);
      for (std::size_t i = 0; i < 17; ++i) priority[i] = static_cast<float>((i * 7 + static_cast<std::size_t>(step)) % 5);
      names[3] = -5;
      stale += host.find(names.data(), 17, slots.data());
      priorities.update(slots.data(), priority.data(), 17);
      ring.update_priorities(names.data(), priority.data(), 17, space_slots.data(), stream);
      CHECK(ring.update_counts(stream).stale == stale);
      REQUIRE(same_leaves());
      if (step == 20) ring.set_leaves(ring.leaves(stream), stream);
    }
  }
}

TEST_CASE("CUDA: skipped rows are counted, and a draw from an empty ring gives rows of zeros") {
  StreamOptions options;
  options.capacity = 30;
  options.num_lanes = 3;
  LaneRing host(columns_of({8}, {2}, true), options);
  DeviceRing ring(host, std::make_unique<HostRingDevice>(), stream);
  ring.set_random({1, 0}, stream);
  Batch batch(host, 5);
  std::vector<OpenedWindow> space = working_memory(5);
  ring.sample(batch.args, batch.index.data(), space.data(), stream);
  for (int i = 0; i < 5; ++i) {
    CHECK(batch.index[i] == -1);
    CHECK(batch.discount[i] == 0);
  }
  for (const auto& array : batch.arrays)
    for (auto byte : array) CHECK(byte == 0);
  Feed feed(host, 4);
  for (int t = 0; t < 20; ++t) {
    const AddArgs args = feed.next(0.1, 0.1, false, true);
    feed.without_bad_rewards(args);
    ring.add_arrays(args, stream);
  }
  CHECK(feed.skipped > 0);
  CHECK(ring.skipped(stream) == feed.skipped);
}

TEST_CASE("CUDA: the rows of an add that changed between drawable and not are listed, each once at most") {
  for (const Case& wanted : cases()) {
    LaneRing host(columns_of(wanted.observation, wanted.rest, wanted.options.linked), wanted.options);
    const std::int64_t lanes = wanted.options.num_lanes;
    Feed feed(host, 3);
    LaneRing twin(host.layout().columns(), host.options());
    RingCounters counters;
    for (int t = 0; t < 40; ++t) {
      const AddArgs args = feed.next(0.2, 0.2, t % 2 == 0);
      const std::vector<std::uint8_t> before(twin.view().flags, twin.view().flags + twin.num_slots());
      host.add(args);
      Journal journal(host.layout(), host.options());
      std::vector<std::uint32_t> block(static_cast<std::size_t>(journal.most_bytes()) / 4);
      auto* const bytes = reinterpret_cast<std::uint8_t*>(block.data());
      journal.start(bytes, journal.most_bytes());
      journal.append(args, nullptr);
      journal.close();
      std::vector<std::int64_t> changed(static_cast<std::size_t>(lanes * host.view().most_changes()), -1);
      HostRingDevice().run(AddLane<JournalRows>{twin.view(), &counters, journal.rows(bytes), changed.data()}, lanes, 32, stream);
      CHECK(counters.size == host.size());
      CHECK(counters.filled == host.filled());
      for (std::int64_t slot = 0; slot < twin.num_slots(); ++slot) {
        const bool listed = std::find(changed.begin(), changed.end(), slot) != changed.end();
        const bool moved = (before[static_cast<std::size_t>(slot)] ^ twin.view().flags[slot]) & flag::drawable;
        if (moved) CHECK(listed);
        CHECK(host.view().flags[slot] == twin.view().flags[slot]);
      }
    }
  }
}

TEST_CASE("CUDA: what waits to be sent cannot be sent in a capture") {
  StreamOptions options;
  options.capacity = 30;
  LaneRing host(columns_of({8}, {2}, true), options);
  auto owned = std::make_unique<HostRingDevice>();
  HostRingDevice& device = *owned;
  DeviceRing ring(host, std::move(owned), stream);
  Feed feed(host, 4);
  ring.add(feed.next(0.1, 0.1, false), nullptr, stream);
  device.capturing = true;
  CHECK_THROWS_WITH_AS(ring.flush(stream), "test: 1 adds wait to be copied, which a graph cannot do; call flush() before the capture", ArgumentError);
  device.capturing = false;
  ring.flush(stream);
  device.capturing = true;
  ring.flush(stream);
}

TEST_CASE("CUDA: rows on the device that were counted and then left out are believed until the next look") {
  StreamOptions options;
  options.capacity = 64;
  LaneRing host(columns_of({8}, {2}, true), options);
  for (const bool by_size : {true, false}) {
    DeviceRing ring(host, std::make_unique<HostRingDevice>(), stream);
    Feed feed(host, 4);
    const auto add = [&](float reward) {
      AddArgs args = feed.next(0.1, 0.1, false);
      args.reward = &reward;
      ring.add_arrays(args, stream);
    };
    for (int t = 0; t < 20; ++t) add(std::numeric_limits<float>::quiet_NaN());
    CHECK(ring.least_size() == 20);
    LaneRing copy(host.layout().columns(), options);
    if (by_size) CHECK(ring.size(stream) == 0);
    else ring.download(copy, false, stream);
    CHECK(ring.least_size() == 0);
    for (int t = 0; t < 3; ++t) add(1);
    CHECK(ring.least_size() == 3);
    CHECK(ring.size(stream) == 3);
  }
}

TEST_CASE("CUDA: what is refused in a capture has changed nothing, so that the ring and its mirror stay equal") {
  StreamOptions options;
  options.capacity = 40;
  for (const bool prioritized : {true, false})
    for (const bool mirrored : {true, false}) {
      LaneRing host(columns_of({100}, {2}, true), options);
      Priorities priorities(host.num_slots(), {0.7, 1e-3});
      auto owned = std::make_unique<HostRingDevice>();
      HostRingDevice& device = *owned;
      DeviceRing ring(host, std::move(owned), stream, 1 << 10);
      if (prioritized) {
        host.set_observer(&priorities);
        ring.prioritize({0.7, 1e-3}, stream);
      }
      Feed feed(host, 4);
      Outcome outcome;
      int refused = 0;
      for (int t = 0; t < 200; ++t) {
        device.capturing = t % 20 < 10;
        AddArgs args = feed.next(0.1, 0.1, false);
        args.outcome = &outcome;
        try {
          if (mirrored) ring.make_room(stream);
          else ring.add(args, nullptr, stream);
        } catch (const ArgumentError&) {
          ++refused;
          continue;
        }
        REQUIRE(host.add(args) == -1);
        if (mirrored) CHECK_NOTHROW(ring.add(args, &outcome, stream));
      }
      CHECK(refused > 0);
      device.capturing = false;
      LaneRing copy(host.layout().columns(), options);
      ring.download(copy, true, stream);
      CHECK(same(host, copy));
      if (!prioritized) continue;
      const std::vector<double> leaves = ring.leaves(stream);
      for (std::int64_t slot = 0; slot < host.num_slots(); ++slot) CHECK(leaves[static_cast<std::size_t>(slot)] == priorities.tree().get(slot));
    }
}

TEST_CASE("CUDA: nothing waits in a capture, which would end it") {
  StreamOptions options;
  options.capacity = 30;
  LaneRing host(columns_of({8}, {2}, true), options);
  auto owned = std::make_unique<HostRingDevice>();
  HostRingDevice& device = *owned;
  DeviceRing ring(host, std::move(owned), stream);
  device.capturing = true;
  const char* const message = "test: waits for the GPU, which a graph cannot do";
  CHECK_THROWS_WITH_AS(ring.size(stream), message, ArgumentError);
  CHECK_THROWS_WITH_AS(ring.random(stream), message, ArgumentError);
  CHECK_THROWS_WITH_AS(ring.download(host, true, stream), message, ArgumentError);
  CHECK_THROWS_WITH_AS(ring.upload(host, stream), message, ArgumentError);
}

TEST_CASE("CUDA: more arrays or bytes than a call can carry are refused") {
  StreamOptions options;
  options.capacity = 64;
  LaneRing many(columns_of(std::vector<std::int64_t>(70, 1), {}, true), options);
  CHECK_THROWS_AS(DeviceRing(many, std::make_unique<HostRingDevice>(), stream), ArgumentError);
  options.num_lanes = 32;
  LaneRing wide(columns_of({std::int64_t{1} << 24}, {}, true), options);
  CHECK_THROWS_AS(DeviceRing(wide, std::make_unique<HostRingDevice>(), stream), ArgumentError);
}
