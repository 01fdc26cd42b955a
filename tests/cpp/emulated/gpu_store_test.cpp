// One store interface, three places: host memory, the emulated GPU, and both. The same calls give the same indices, batches, weights and state.
#include <doctest/doctest.h>

#include <cstring>
#include <memory>
#include <vector>

#include "core/check.hpp"
#include "gpu.hpp"
#include "replay/gpu/store.hpp"
#include "replay/host_store.hpp"
#include "replay/select/episodes.hpp"
#include "ring_feed.hpp"

using namespace pyrl;
using namespace pyrl::replay;

namespace {

std::vector<std::unique_ptr<Store>> stores(const Case& wanted) {
  const auto ring = [&] { return std::make_unique<LaneRing>(columns_of(wanted.observation, wanted.rest, wanted.options.linked), wanted.options); };
  const RandomStream random{77, 0};
  std::vector<std::unique_ptr<Store>> made;
  made.push_back(std::make_unique<HostStore>(ring(), random));
  made.push_back(std::make_unique<DeviceStore>(ring(), cuda_ring_device(0), random, gpu));
  made.push_back(std::make_unique<MirroredStore>(ring(), cuda_ring_device(0), random, gpu));
  return made;
}

// What a call for `count` records needs beside its outputs.
std::vector<std::int64_t> workspace(const Store& store, std::int64_t count) {
  return std::vector<std::int64_t>(static_cast<std::size_t>(store.workspace_bytes(count) / 8 + 1));
}

struct Drawn {
  std::vector<std::int64_t> index;
  std::vector<float> weight;
  bool operator==(const Drawn& other) const {
    return index == other.index && std::memcmp(weight.data(), other.weight.data(), weight.size() * sizeof(float)) == 0;
  }
};

constexpr std::int64_t count = 9;

Drawn draw(Store& store, bool replacement) {
  Drawn drawn{std::vector<std::int64_t>(count), std::vector<float>(count)};
  std::vector<std::int64_t> space = workspace(store, count);
  Selection selection{count, replacement, 0.4, false, store.is_prioritized() ? drawn.weight.data() : nullptr};
  store.draw(selection, drawn.index.data(), space.data(), gpu);
  emulator_wait(nullptr);
  std::vector<float> again(count);
  selection.weight = again.data();
  if (store.is_prioritized()) {
    CHECK(store.weigh(selection, drawn.index.data(), space.data(), gpu) == -1);
    emulator_wait(nullptr);
    CHECK(std::memcmp(again.data(), drawn.weight.data(), count * sizeof(float)) == 0);
  }
  return drawn;
}

// The windows of these records; the number of the first that has none.
std::pair<std::int64_t, Batch> get(Store& store, const Case& wanted, const std::vector<std::int64_t>& index, const WindowLengths& window) {
  Case sized = wanted;
  sized.options.n_step = window.n_step;
  sized.options.frame_stack = window.frame_stack;
  sized.options.capacity = wanted.options.num_lanes * 20;  // of the batch's shapes
  const LaneRing like(columns_of(wanted.observation, wanted.rest, wanted.options.linked), sized.options);
  Batch batch(like, static_cast<std::int64_t>(index.size()));
  std::vector<std::int64_t> space = workspace(store, batch.count);
  const std::int64_t missing = store.get(batch.args, index.data(), batch.index.data(), space.data(), gpu);
  emulator_wait(nullptr);
  return {missing, std::move(batch)};
}

}  // namespace

TEST_CASE("CUDA: three stores, one behaviour") {
  unsigned seed = 1;
  for (const Case& wanted : cases()) {
    const bool prioritized = ++seed % 2 == 0;
    const auto all = stores(wanted);
    if (prioritized)
      for (const auto& store : all) store->prioritize({0.7, 1e-3}, gpu);
    Feed feed(all[0]->ring(), seed);
    for (int step = 0; step < 30; ++step) {
      const AddArgs args = feed.next(0.15, 0.1, step % 3 == 0);
      for (const auto& store : all) REQUIRE(store->add(args, false, gpu) == -1);
      const LaneRing& ring = all[0]->ring();
      if (ring.size() < count) continue;
      for (const auto& store : all) CHECK(store->size(gpu, ring.num_slots() + 1) == ring.size());
      const Drawn want = draw(*all[0], step % 2 == 0 || prioritized);
      const WindowLengths window = wanted.options.linked ? WindowLengths{1 + step % 4, 1 + step % 3} : WindowLengths{};
      const auto [missing, batch] = get(*all[0], wanted, want.index, window);
      for (std::size_t i = 1; i < all.size(); ++i) {
        CHECK(draw(*all[i], step % 2 == 0 || prioritized) == want);
        const auto [other_missing, other] = get(*all[i], wanted, want.index, window);
        CHECK(other_missing == missing);
        if (missing < 0) CHECK(batch == other);
      }
      if (step % 10 == 9) {
        std::vector<std::int64_t> slots(1);
        REQUIRE(ring.find(want.index.data(), 1, 1, slots.data()) == 0);
        const std::vector<std::int64_t> gone = episode_slots(ring, slots[0]);
        for (std::size_t i = 1; i < all.size(); ++i) REQUIRE(episode_slots(all[i]->metadata(gpu), slots[0]) == gone);
        for (const auto& store : all) store->remove(gone, gpu);
      }
      for (std::size_t i = 1; i < all.size(); ++i) {
        const LaneRing& there = all[i]->metadata(gpu);
        const RingState a = ring.state(ring.lane_capacity()), b = there.state(ring.lane_capacity());
        CHECK(a.flags == b.flags);
        CHECK(a.pending == b.pending);
        if (prioritized) CHECK(all[i]->leaves(gpu) == all[0]->leaves(gpu));
      }
    }
  }
}

TEST_CASE("CUDA: a ring with deleted episodes looks before it believes that something is stored") {
  StreamOptions options;
  options.capacity = 40;
  DeviceStore store(std::make_unique<LaneRing>(columns_of({8}, {2}, true), options), cuda_ring_device(0), {1, 0}, gpu);
  Feed feed(store.ring(), 4);
  for (int t = 0; t < 30; ++t) store.add(feed.next(0, 0, false), false, gpu);
  CHECK(store.size(gpu, 100) == 30);
  const LaneRing& ring = store.metadata(gpu);
  store.remove(episode_slots(ring, 3), gpu);
  CHECK(store.size(gpu, 1) == 0);
  store.add(feed.next(0, 0, false), false, gpu);
  CHECK(store.size(gpu, 1) == 1);
}

TEST_CASE("CUDA: what a store takes is forecast") {
  for (const Case& wanted : cases())
    for (const bool prioritized : {false, true}) {
      const auto all = stores(wanted);
      if (prioritized)
        for (const auto& store : all) store->prioritize({0.7, 1e-3}, gpu);
      const LaneRing& ring = all[0]->ring();
      CHECK(all[1]->nbytes() == DeviceRing::nbytes(ring.layout(), wanted.options, prioritized));
      CHECK(all[2]->nbytes() == all[1]->nbytes() + LaneRing::nbytes(ring.layout(), wanted.options));
      CHECK(all[0]->nbytes() == LaneRing::nbytes(ring.layout(), wanted.options) + (prioritized ? SumTree::nbytes(ring.num_slots()) : 0));
    }
}
