#include <doctest/doctest.h>

#include <cstring>
#include <limits>
#include <set>
#include <vector>

#include "core/check.hpp"
#include "core/parallel.hpp"
#include "replay/lane_ring.hpp"
#include "replay/select/episodes.hpp"
#include "replay/select/uniform.hpp"
#include "replay/window/gather.hpp"

using namespace pyrl;
using namespace pyrl::replay;

namespace {

// One observation column of `width` floats, one action byte; observation t holds t.
struct Stream {
  Stream(StreamOptions options, std::int64_t width)
      : ring({{width * 4, 4, true}, {1, 1, false}}, options), width_(width), here(options.num_lanes * width), there(here.size()),
        action(options.num_lanes), reward(options.num_lanes), terminated(new bool[options.num_lanes]()), truncated(new bool[options.num_lanes]()) {}

  std::int64_t add(float t, bool end = false) {
    std::fill(here.begin(), here.end(), t);
    std::fill(there.begin(), there.end(), t + 1);
    std::fill(reward.begin(), reward.end(), t);
    for (std::size_t lane = 0; lane < reward.size(); ++lane) terminated[lane] = end;
    const void* observation[] = {here.data()};
    const void* next[] = {there.data()};
    const void* columns[] = {action.data()};
    AddArgs args;
    args.observation = observation;
    args.next_observation = next;
    args.columns = columns;
    args.reward = reward.data();
    args.terminated = terminated.get();
    args.truncated = truncated.get();
    return ring.add(args);
  }

  LaneRing ring;
  std::int64_t width_;
  std::vector<float> here, there;
  std::vector<std::uint8_t> action;
  std::vector<float> reward;
  std::unique_ptr<bool[]> terminated, truncated;
};

}  // namespace

TEST_CASE("the layout packs small columns and sets wide ones apart") {
  const RecordLayout layout({{68, 4, true}, {8, 8, false}, {1, 1, false}, {28224, 1, true}}, 10);
  CHECK(layout.columns()[0].offset == 4);
  CHECK(layout.columns()[1].offset % 8 == 0);
  CHECK(layout.columns()[1].hot);
  CHECK_FALSE(layout.columns()[3].hot);
  CHECK(layout.columns()[3].offset >= 10 * layout.stride());
  CHECK(layout.store_bytes() >= layout.columns()[3].offset + 10 * 28224);
  CHECK(layout.observation_prefix() == 72);
  CHECK_THROWS_AS(RecordLayout({{1 << 20, 1, true}}, std::int64_t{1} << 50), ArgumentError);
}

TEST_CASE("a pair of records touches as few cache lines as counted") {
  CHECK(mean_cache_lines(64, 64) == 1.0);
  CHECK(mean_cache_lines(96, 64) == 1.5);
  CHECK(mean_cache_lines(4, 4) == 1.0);
}

TEST_CASE("rings of every small size hold what fits, through many laps, for hot and wide rows") {
  for (std::int64_t width : {1, 17, 200}) {
    for (std::int64_t capacity : {2, 3, 7, 16}) {
      StreamOptions options;
      options.capacity = capacity;
      Stream stream(options, width);
      for (int t = 0; t < 100; ++t) {
        CHECK(stream.add(static_cast<float>(t)) == -1);
        CHECK(stream.ring.size() == std::min<std::int64_t>(t + 1, capacity - 1));
      }
      std::vector<std::int64_t> index(64), slots(64);
      UniformSelector().draw(stream.ring, {1, 0}, {64}, index.data(), slots.data());
      std::vector<float> observation(64 * width), next(64 * width), reward(64), discount(64);
      std::vector<std::uint8_t> action(64);
      const std::unique_ptr<bool[]> terminated(new bool[64]);
      void* to[] = {observation.data()};
      void* to_next[] = {next.data()};
      void* to_columns[] = {action.data()};
      gather(stream.ring, {slots.data(), 64, {}, to, to_next, to_columns, reward.data(), terminated.get(), discount.data()});
      for (int i = 0; i < 64; ++i) {
        CHECK(index[i] == static_cast<std::int64_t>(reward[i]));
        CHECK(observation[i * width] == reward[i]);
        CHECK(next[(i + 1) * width - 1] == reward[i] + 1);
      }
    }
  }
}

TEST_CASE("a reward that is not finite stores nothing") {
  StreamOptions options;
  options.capacity = 40;
  options.num_lanes = 3;
  Stream stream(options, 2);
  CHECK(stream.add(1) == -1);
  CHECK(stream.add(std::numeric_limits<float>::quiet_NaN()) == 0);
  CHECK(stream.ring.size() == 3);
}

TEST_CASE("draws do not depend on threads; distinct draws are distinct; stale indices are found out") {
  StreamOptions options;
  options.capacity = 30000;
  options.num_lanes = 3;
  Stream stream(options, 1);
  for (int t = 0; t < 15000; ++t) stream.add(static_cast<float>(t), t % 5 == 4);
  std::vector<std::int64_t> once(30000), slots(30000), again(30000);
  set_num_threads(1);
  UniformSelector().draw(stream.ring, {9, 4}, {30000}, once.data(), slots.data());
  for (int threads : {2, 4}) {
    set_num_threads(threads);
    UniformSelector().draw(stream.ring, {9, 4}, {30000}, again.data(), slots.data());
    CHECK(once == again);
  }
  set_num_threads(0);
  const std::int64_t size = stream.ring.size();
  UniformSelector().draw(stream.ring, {9, 5}, {size, false}, once.data(), slots.data());
  CHECK(std::set<std::int64_t>(once.begin(), once.begin() + size).size() == static_cast<std::size_t>(size));
  const std::int64_t names[] = {-1, 0, once[0], std::int64_t{1} << 60};
  CHECK(stream.ring.find(names, 4, 1, slots.data()) == 3);
  CHECK(slots[2] >= 0);
  for (const auto& episode : episodes(stream.ring)) CHECK(episode.end - episode.start <= 5);
}
