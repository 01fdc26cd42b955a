// A ring on the emulated GPU: the same records, draws and batches as a LaneRing's, whatever the order of threads and streams.
#include <doctest/doctest.h>

#include <limits>
#include <optional>
#include <vector>

#include "core/check.hpp"
#include "gpu.hpp"
#include "replay/gpu/ring.hpp"
#include "replay/select/prioritized.hpp"
#include "replay/select/uniform.hpp"
#include "ring_feed.hpp"

using namespace pyrl;
using namespace pyrl::replay;

namespace {

enum class Way { journal, mirror, arrays };

// Steps, samples, searches, clears and changes of place in a random order, each compared with a LaneRing that goes through the same.
void follow(const Case& wanted, Way way, bool lazy, unsigned seed) {
  LaneRing host(columns_of(wanted.observation, wanted.rest, wanted.options.linked), wanted.options);
  const Lazy put_off(lazy);
  DeviceRing ring(host, cuda_ring_device(0), gpu, seed % 2 == 0 ? 1 << 12 : 1 << 16);  // few records a block, and many
  RandomStream random{77, 0};
  ring.set_random(random, gpu);
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
      ring.add_arrays(on_device, gpu);
      emulator_wait(nullptr);  // the next step writes over its rows
      return;
    }
    ring.add(args, way == Way::mirror ? outcome.data() : nullptr, gpu);
    rows += lanes;
    for (const Outcome became : outcome) {
      if (became == Outcome::absent) continue;
      const bool with_observation = way == Way::journal || became == Outcome::begins;
      sent += others + (with_observation ? observation_bytes : 0) + (wanted.options.linked ? observation_bytes : 0);
    }
  };
  for (int step = 0; step < 30; ++step) {
    for (int times = step % 4 * 5; times >= 0; --times) add(step % 3 == 0, way == Way::arrays && step % 5 == 0);
    if (way != Way::arrays) CHECK(ring.least_size() <= host.size());  // of those it believes in too many, until it looks
    if (step % 7 == 3) {
      LaneRing copy(host.layout().columns(), host.options());
      ring.download(copy, true, gpu);
      REQUIRE(same(host, copy));
      CHECK(ring.size(gpu) == host.size());
      CHECK(ring.least_size() <= host.size());
    }
    if (step % 13 == 12) {
      ring.clear(gpu);
      host.clear();
    }
    if (step % 17 == 16) {
      LaneRing other(host.layout().columns(), host.options());
      ring.download(other, true, gpu);
      ring.upload(other, gpu);
    }
    if (host.size() == 0) continue;
    Batch want(host, 33), got(host, 33);
    UniformSelector().draw(host, {random.key, random.next_draw()}, {want.count}, want.index.data(), want.slots.data());
    gather(host, want.args);
    std::vector<OpenedWindow> space = working_memory(33), drawn = working_memory(33);
    std::int64_t* const found = DeviceRing::slots_in(space.data(), 33);
    // By name, some of which are stale.
    std::vector<std::int64_t> names = want.index, slots(33);
    for (std::size_t i = 0; i < names.size(); i += 1 + i % 5) names[i] = static_cast<std::int64_t>(i * 13) - 2;
    ring.find(names.data(), 33, 1, found, gpu);
    CHECK(ring.stale(gpu) == host.find(names.data(), 33, 1, slots.data()));
    for (std::size_t i = 0; i < names.size(); ++i) CHECK(found[i] == slots[i]);
    ring.find(want.index.data(), 33, 1, found, gpu);
    Batch named(host, 33);
    named.index = want.index;
    named.args.slots = found;
    ring.gather(named.args, space.data(), gpu);
    // What is added before the batches are ready is not in them.
    ring.sample({33}, got.args, got.index.data(), drawn.data(), gpu);
    add(step % 2 == 0, false);
    ring.flush(gpu);
    emulator_wait(nullptr);
    REQUIRE(want == named);
    REQUIRE(want == got);
  }
  ring.flush(gpu);
  if (way != Way::arrays) CHECK(ring.bytes_copied() == sent + 4 * rows);
  CHECK(ring.random(gpu).draw == random.draw);
}

void follow_all(Way way) {
  unsigned seed = 1;
  for (const Case& wanted : cases()) {
    follow(wanted, way, seed % 3 == 0, seed);
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

TEST_CASE("CUDA: skipped rows are counted, and a draw from an empty ring gives rows of zeros") {
  StreamOptions options;
  options.capacity = 30;
  options.num_lanes = 3;
  LaneRing host(columns_of({8}, {2}, true), options);
  DeviceRing ring(host, cuda_ring_device(0), gpu);
  ring.set_random({1, 0}, gpu);
  Batch batch(host, 5);
  std::vector<OpenedWindow> space = working_memory(5);
  ring.sample({batch.args.count}, batch.args, batch.index.data(), space.data(), gpu);
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
    ring.add_arrays(args, gpu);
  }
  CHECK(feed.skipped > 0);
  CHECK(ring.skipped(gpu) == feed.skipped);
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
      cuda_ring_device(0)->run(AddLane<JournalRows>{twin.view(), &counters, journal.rows(bytes), changed.data()}, lanes, 32, gpu);
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
  DeviceRing ring(host, cuda_ring_device(0), gpu);
  Feed feed(host, 4);
  ring.add(feed.next(0.1, 0.1, false), nullptr, gpu);
  {
    const Capture capture;
    CHECK_THROWS_WITH_AS(ring.flush(gpu), "test: 1 adds wait to be copied, which a graph cannot do; call flush() before the capture", ArgumentError);
  }
  ring.flush(gpu);
  const Capture capture;
  ring.flush(gpu);
}

TEST_CASE("CUDA: rows on the device that were counted and then left out are believed until the next look") {
  StreamOptions options;
  options.capacity = 64;
  LaneRing host(columns_of({8}, {2}, true), options);
  for (const bool by_size : {true, false}) {
    DeviceRing ring(host, cuda_ring_device(0), gpu);
    Feed feed(host, 4);
    const auto add = [&](float reward) {
      AddArgs args = feed.next(0.1, 0.1, false);
      args.reward = &reward;
      ring.add_arrays(args, gpu);
    };
    for (int t = 0; t < 20; ++t) add(std::numeric_limits<float>::quiet_NaN());
    CHECK(ring.least_size() == 20);
    LaneRing copy(host.layout().columns(), options);
    if (by_size) CHECK(ring.size(gpu) == 0);
    else ring.download(copy, false, gpu);
    CHECK(ring.least_size() == 0);
    for (int t = 0; t < 3; ++t) add(1);
    CHECK(ring.least_size() == 3);
    CHECK(ring.size(gpu) == 3);
  }
}

TEST_CASE("CUDA: what is refused in a capture has changed nothing, so that the ring and its mirror stay equal") {
  StreamOptions options;
  options.capacity = 40;
  for (const bool prioritized : {true, false})
    for (const bool mirrored : {true, false}) {
      LaneRing host(columns_of({100}, {2}, true), options);
      PrioritizedSelector priorities(host.num_slots(), {0.7, 1e-3});
      DeviceRing ring(host, cuda_ring_device(0), gpu, 1 << 10);
      if (prioritized) {
        host.set_selector(&priorities);
        ring.prioritize({0.7, 1e-3}, gpu);
      }
      Feed feed(host, 4);
      Outcome outcome;
      int refused = 0;
      std::optional<Capture> capture;
      for (int t = 0; t < 200; ++t) {
        if (t % 20 == 0) capture.emplace();
        if (t % 20 == 10) capture.reset();
        AddArgs args = feed.next(0.1, 0.1, false);
        args.outcome = &outcome;
        try {
          if (mirrored) ring.make_room(gpu);
          else ring.add(args, nullptr, gpu);
        } catch (const ArgumentError&) {
          ++refused;
          continue;
        }
        REQUIRE(host.add(args) == -1);
        if (mirrored) CHECK_NOTHROW(ring.add(args, &outcome, gpu));
      }
      CHECK(refused > 0);
      capture.reset();
      LaneRing copy(host.layout().columns(), options);
      ring.download(copy, true, gpu);
      CHECK(same(host, copy));
      if (!prioritized) continue;
      const std::vector<double> leaves = ring.leaves(gpu);
      for (std::int64_t slot = 0; slot < host.num_slots(); ++slot) CHECK(leaves[static_cast<std::size_t>(slot)] == priorities.tree().get(slot));
    }
}

TEST_CASE("CUDA: nothing waits in a capture, which would end it") {
  StreamOptions options;
  options.capacity = 30;
  LaneRing host(columns_of({8}, {2}, true), options);
  DeviceRing ring(host, cuda_ring_device(0), gpu);
  const Capture capture;
  const char* const message = "test: waits for the GPU, which a graph cannot do";
  CHECK_THROWS_WITH_AS(ring.size(gpu), message, ArgumentError);
  CHECK_THROWS_WITH_AS(ring.random(gpu), message, ArgumentError);
  CHECK_THROWS_WITH_AS(ring.download(host, true, gpu), message, ArgumentError);
  CHECK_THROWS_WITH_AS(ring.upload(host, gpu), message, ArgumentError);
}

TEST_CASE("CUDA: more arrays or bytes than a call can carry are refused") {
  StreamOptions options;
  options.capacity = 64;
  LaneRing many(columns_of(std::vector<std::int64_t>(70, 1), {}, true), options);
  CHECK_THROWS_AS(DeviceRing(many, cuda_ring_device(0), gpu), ArgumentError);
  options.num_lanes = 32;
  LaneRing wide(columns_of({std::int64_t{1} << 24}, {}, true), options);
  CHECK_THROWS_AS(DeviceRing(wide, cuda_ring_device(0), gpu), ArgumentError);
}
