#include "sampling/uniform_indices.hpp"

#include <algorithm>
#include <bit>
#include <numeric>
#include <vector>

#include "core/check.hpp"
#include "core/interrupt.hpp"
#include "core/parallel.hpp"
#include "sampling/philox_batch.hpp"

namespace pyrl::sampling {
namespace {

constexpr std::int64_t tile_indices = 2 * batch_rows;

// Calls use(i, below(i, bound(i))) for the indices of tile t.
template <class Bound, class Use>
PYRL_INLINE void for_tile(const UniformIndicesArgs& args, std::int64_t tile, const Bound& bound, const Use& use) {
  PhiloxBatch words;
  fill_words(words, args.random.key, args.random.draw, static_cast<std::uint32_t>(tile * batch_rows), 0);
  const std::int64_t first = tile * tile_indices, last = std::min(first + tile_indices, args.index.extent[0]);
  for (std::int64_t i = first; i < last; ++i) {
    const std::int64_t lane = (i - first) >> 1, half = 2 * (i & 1);
    use(i, index_below(words.word[half][lane], words.word[half + 1][lane], bound(i), args.random.key, args.random.draw, static_cast<std::uint64_t>(i)));
  }
}

// The indices of tile t below a bound of 32 bits, whose products fit into the lanes of vector registers. False where an attempt may be refused.
PYRL_INLINE bool small_tile(const UniformIndicesArgs& args, std::int64_t tile, std::int64_t* PYRL_RESTRICT index) {
  PhiloxBatch words;
  fill_words(words, args.random.key, args.random.draw, static_cast<std::uint32_t>(tile * batch_rows), 0);
  const std::uint64_t n = static_cast<std::uint32_t>(args.high);
  std::uint32_t refused = 0;
  for (int lane = 0; lane < batch_rows; ++lane)
    for (int half = 0; half < 2; ++half) {
      const std::uint64_t high = words.word[2 * half][lane] * n, low = words.word[2 * half + 1][lane] * n;
      refused |= static_cast<std::uint32_t>((high << 32) + low < n);
      index[2 * lane + half] = static_cast<std::int64_t>((high + (low >> 32)) >> 32);
    }
  return refused == 0;
}

std::int64_t tiles_of(const UniformIndicesArgs& args) { return (args.index.extent[0] + tile_indices - 1) / tile_indices; }

// The entries that the shuffle has moved: a map from position to value, by linear probing.
class Moved {
 public:
  struct Entry {
    std::int64_t position = -1, value = 0;
  };

  Moved(std::vector<Entry>& table, std::int64_t most) : table_(table) {
    const auto size = std::bit_ceil(static_cast<std::uint64_t>(2 * most + 2));
    table_.assign(size, Entry{});
    shift_ = 64 - std::countr_zero(size);
  }
  Entry& find(std::int64_t position) {
    auto slot = (static_cast<std::uint64_t>(position) * 0x9E3779B97F4A7C15u) >> shift_;
    while (table_[slot].position >= 0 && table_[slot].position != position) slot = (slot + 1) & (table_.size() - 1);
    return table_[slot];
  }

 private:
  std::vector<Entry>& table_;
  int shift_;
};

// Scratch kept from call to call, unless it is large.
template <class T>
class Scratch {
 public:
  ~Scratch() {
    if (memory().capacity() * sizeof(T) > (std::size_t{1} << 20)) std::vector<T>().swap(memory());
  }
  static std::vector<T>& memory() {
    static thread_local std::vector<T> kept;
    return kept;
  }
};

template <class Exchange>
void shuffle(const UniformIndicesArgs& args, const Exchange& exchange) {
  const std::int64_t tiles = tiles_of(args);
  simd::dispatch([&]() PYRL_INLINE_LAMBDA {
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      if (tile % 1024 == 0) check_interrupt();
      for_tile(
          args, tile, [&](std::int64_t i) PYRL_INLINE_LAMBDA { return args.high - static_cast<std::uint64_t>(i); },
          [&](std::int64_t i, std::uint64_t step) PYRL_INLINE_LAMBDA { args.index(i) = exchange(i, i + static_cast<std::int64_t>(step)); });
    }
  });
}

}  // namespace

void uniform_indices(const UniformIndicesArgs& args) {
  parallel_for(tiles_of(args), 512, [&args](std::int64_t begin, std::int64_t end) {
    simd::dispatch([&]() PYRL_INLINE_LAMBDA {
      const bool small = args.high <= 0xffffffffu;
      const std::int64_t whole = small ? std::min(end, args.index.extent[0] / tile_indices) : begin;  // tiles that are full
      for (std::int64_t tile = begin; tile < end; ++tile) {
        if (tile < whole && small_tile(args, tile, args.index.data + tile * tile_indices)) continue;
        for_tile(
            args, tile, [&](std::int64_t) PYRL_INLINE_LAMBDA { return args.high; },
            [&](std::int64_t i, std::uint64_t value) PYRL_INLINE_LAMBDA { args.index(i) = static_cast<std::int64_t>(value); });
      }
    });
  });
}

void distinct_indices(const UniformIndicesArgs& args) {
  const std::int64_t count = args.index.extent[0];
  PYRL_CHECK(static_cast<std::uint64_t>(count) <= args.high, ArgumentError, "uniform_indices: size is ", count,
             ", expected at most high = ", args.high, " without replacement");
  if (args.high <= 4 * static_cast<std::uint64_t>(count)) {
    Scratch<std::int64_t> scratch;
    auto& deck = scratch.memory();
    deck.resize(args.high);
    std::iota(deck.begin(), deck.end(), std::int64_t{0});
    shuffle(args, [&](std::int64_t i, std::int64_t other) {
      std::swap(deck[static_cast<std::size_t>(i)], deck[static_cast<std::size_t>(other)]);
      return deck[static_cast<std::size_t>(i)];
    });
    return;
  }
  Scratch<Moved::Entry> scratch;
  Moved moved(scratch.memory(), count);
  shuffle(args, [&](std::int64_t i, std::int64_t other) {
    const Moved::Entry at_i = moved.find(i);
    Moved::Entry& slot = moved.find(other);
    const std::int64_t result = slot.position < 0 ? other : slot.value;
    slot = {other, at_i.position < 0 ? i : at_i.value};
    return result;
  });
}

}  // namespace pyrl::sampling
