// A prioritized ring on the emulated GPU, against a LaneRing with PrioritizedSelector.
#include <doctest/doctest.h>

#include <cstring>
#include <vector>

#include "core/check.hpp"
#include "gpu.hpp"
#include "replay/gpu/ring.hpp"
#include "replay/select/prioritized.hpp"
#include "ring_feed.hpp"

using namespace pyrl;
using namespace pyrl::replay;

TEST_CASE("CUDA: draws by priority, their weights and new records' leaves are the CPU's") {
  unsigned seed = 1;
  for (const Case& wanted : cases()) {
    LaneRing host(columns_of(wanted.observation, wanted.rest, wanted.options.linked), wanted.options);
    PrioritizedSelector priorities(host.num_slots(), {0.7, 1e-3});
    const Lazy put_off(seed % 2 == 0);
    DeviceRing ring(host, cuda_ring_device(0), gpu);
    host.set_selector(&priorities);
    ring.prioritize({0.7, 1e-3}, gpu);
    RandomStream random{77, 0};
    ring.set_random(random, gpu);
    Feed feed(host, ++seed);
    std::vector<Outcome> outcome(static_cast<std::size_t>(wanted.options.num_lanes));
    std::int64_t stale = 0;
    for (int step = 0; step < 40; ++step) {
      AddArgs args = feed.next(0.15, 0.1, step % 3 == 0);
      args.outcome = outcome.data();
      REQUIRE(host.add(args) == -1);
      ring.add(args, seed % 3 == 0 ? outcome.data() : nullptr, gpu);
      if (step == 30) {
        host.clear();
        ring.clear(gpu);
      }
      const auto same_leaves = [&] {
        const std::vector<double> leaves = ring.leaves(gpu);
        for (std::int64_t slot = 0; slot < host.num_slots(); ++slot)
          if (leaves[static_cast<std::size_t>(slot)] != priorities.tree().get(slot)) return false;
        return true;
      };
      REQUIRE(same_leaves());
      if (host.size() == 0) continue;
      Batch want(host, 17), got(host, 17);
      std::vector<float> want_weight(17), got_weight(17);
      std::vector<OpenedWindow> space = working_memory(17);
      const Selection wanted_draw{17, true, 0.4, step % 2 == 0, want_weight.data()}, got_draw{17, true, 0.4, step % 2 == 0, got_weight.data()};
      priorities.draw(host, {random.key, random.next_draw()}, wanted_draw, want.index.data(), want.slots.data());
      gather(host, want.args);
      ring.sample(got_draw, got.args, got.index.data(), space.data(), gpu);
      emulator_wait(nullptr);
      REQUIRE(want == got);
      CHECK(std::memcmp(want_weight.data(), got_weight.data(), 17 * sizeof(float)) == 0);
      got_weight.assign(17, 0.0f);
      ring.weigh(got_draw, want.slots.data(), gpu);
      emulator_wait(nullptr);
      CHECK(std::memcmp(want_weight.data(), got_weight.data(), 17 * sizeof(float)) == 0);
      // New priorities, some for records that never were.
      std::vector<float> priority(17);
      std::vector<std::int64_t> names = want.index, slots(17), space_slots(17);
      for (std::size_t i = 0; i < 17; ++i) priority[i] = static_cast<float>((i * 7 + static_cast<std::size_t>(step)) % 5);
      names[3] = -5;
      stale += host.find(names.data(), 17, 1, slots.data());
      priorities.update(slots.data(), priority.data(), 17);
      ring.update_priorities(names.data(), priority.data(), 17, space_slots.data(), gpu);
      CHECK(ring.update_counts(gpu).stale == stale);
      REQUIRE(same_leaves());
      if (step == 20) ring.set_leaves(ring.leaves(gpu), gpu);
    }
  }
}
