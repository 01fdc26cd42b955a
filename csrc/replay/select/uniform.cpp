#include "replay/select/uniform.hpp"

#include <algorithm>
#include <bit>

#include "core/interrupt.hpp"
#include "core/parallel.hpp"

namespace pyrl::replay {
namespace {

Candidates candidates(const LaneRing& ring) { return {ring.filled(), ring.lane_capacity(), ring.options().num_lanes}; }

}  // namespace

void UniformSelector::draw(const LaneRing& ring, const RandomStream& stream, const Selection& selection, std::int64_t* index, std::int64_t* slots) {
  if (selection.replacement) return draw_any(ring, stream, selection.count, index, slots);
  draw_distinct(ring, stream, selection.count, index, slots);
}

void UniformSelector::draw_any(const LaneRing& ring, const RandomStream& stream, std::int64_t count, std::int64_t* index, std::int64_t* slots) {
  const RingView& view = ring.view();
  const Candidates candidate = candidates(ring);
  constexpr std::int64_t chunk = 64;
  parallel_for(count, 8192, [&](std::int64_t begin, std::int64_t end) {
    std::uint32_t words[4][chunk];
    for (std::int64_t first = begin; first < end; first += chunk) {
      const std::int64_t n = std::min(chunk, end - first);
      simd::dispatch([&]() PYRL_INLINE_LAMBDA {
        for (std::int64_t i = 0; i < chunk; ++i) {
          const PhiloxBlock block = philox(stream.key, stream.draw, static_cast<std::uint32_t>(first + i), 0);
          for (int w = 0; w < 4; ++w) words[w][i] = block[w];
        }
      });
      for (std::int64_t i = 0; i < n; ++i) {
        std::int64_t at = view.attempt(candidate, words[0][i], words[1][i], words[2][i], words[3][i]);
        for (std::uint32_t j = 1; !view.is_drawable(at); ++j) {
          const PhiloxBlock block = philox(stream.key, stream.draw, static_cast<std::uint32_t>(first + i), j);
          at = view.attempt(candidate, block[0], block[1], block[2], block[3]);
        }
        slots[first + i] = at;
        index[first + i] = view.index_of(at);
      }
    }
  });
}

void UniformSelector::draw_distinct(const LaneRing& ring, const RandomStream& stream, std::int64_t count, std::int64_t* index, std::int64_t* slots) {
  const std::int64_t size = ring.size();
  if (count <= size / 4) {
    draw_any(ring, stream, count, index, slots);
    draw_repeats_again(ring, stream, count, slots);
    for (std::int64_t i = 0; i < count; ++i) index[i] = ring.index_of(slots[i]);
    return;
  }
  scratch_.clear();
  scratch_.reserve(static_cast<std::size_t>(size));
  for (std::int64_t at = 0; at < ring.num_slots(); ++at) {
    if (at % (1 << 16) == 0) check_interrupt();
    if (ring.view().is_drawable(at)) scratch_.push_back(at);
  }
  for (std::int64_t i = 0; i < count; ++i) {
    if (i % (1 << 16) == 0) check_interrupt();
    const PhiloxBlock words = philox(stream.key, stream.draw, static_cast<std::uint32_t>(i), 0);
    const auto other = i + static_cast<std::int64_t>(uniform_below(words[0], words[1], static_cast<std::uint64_t>(size - i)));
    std::swap(scratch_[i], scratch_[other]);
    slots[i] = scratch_[i];
    index[i] = ring.index_of(slots[i]);
  }
}

// A uniform draw among all, kept only if it is new, is a uniform draw among those that are left.
void UniformSelector::draw_repeats_again(const LaneRing& ring, const RandomStream& stream, std::int64_t count, std::int64_t* slots) {
  const Candidates candidate = candidates(ring);
  const auto buckets = std::bit_ceil(static_cast<std::uint64_t>(4 * count));
  scratch_.assign(buckets, -1);  // open addressing: the slots taken so far
  const auto take = [&](std::int64_t slot) {
    std::uint64_t bucket = (static_cast<std::uint64_t>(slot) * 0x9E3779B97F4A7C15u >> 32) & (buckets - 1);
    for (; scratch_[bucket] >= 0; bucket = (bucket + 1) & (buckets - 1))
      if (scratch_[bucket] == slot) return false;
    scratch_[bucket] = slot;
    return true;
  };
  for (std::int64_t i = 0; i < count; ++i) {
    if (i % (1 << 16) == 0) check_interrupt();
    for (std::uint32_t j = std::uint32_t{1} << 31; !take(slots[i]); ++j) {
      const PhiloxBlock block = philox(stream.key, stream.draw, static_cast<std::uint32_t>(i), j);
      const std::int64_t at = candidate(block[0], block[1]);
      if (ring.view().is_drawable(at)) slots[i] = at;
    }
  }
}

}  // namespace pyrl::replay
