#include "sampling/categorical.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "core/check.hpp"
#include "core/parallel.hpp"
#include "sampling/philox_batch.hpp"

namespace pyrl::sampling {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr std::int64_t chunk = 64;  // categories held at a time

// Sixteen rows side by side: value[k][l] belongs to row first + l.
struct alignas(64) Columns {
  float value[chunk][batch_rows];
};

struct alignas(64) Tile {
  float largest[batch_rows];
  double total[batch_rows], threshold[batch_rows];
  std::int64_t action[batch_rows];
  float log_prob[batch_rows];
};

// Any byte but 0 is true, so that uint8 masks work as bool ones do.
PYRL_INLINE bool is_allowed(const CategoricalArgs& args, std::int64_t i) {
  return reinterpret_cast<const std::uint8_t*>(args.mask.data)[i] != 0;
}

class Rows {
 public:
  Rows(const CategoricalArgs& args, std::int64_t tile)
      : args_(args), first_(tile * batch_rows), count_(static_cast<int>(std::min<std::int64_t>(batch_rows, args.logits.extent[0] - first_))) {}

  std::int64_t first() const { return first_; }
  int count() const { return count_; }

  // Logits of categories [from, from + width); forbidden ones as -inf. Lanes beyond the batch hold zeros.
  PYRL_INLINE void load(Columns& columns, std::int64_t from, std::int64_t width) const {
    const std::int64_t stride = args_.logits.extent[1];
    const float* logits = args_.logits.data + first_ * stride + from;
    if (count_ == batch_rows) {
      for (std::int64_t k = 0; k < width; ++k)
        for (int l = 0; l < batch_rows; ++l) columns.value[k][l] = logits[l * stride + k];
    } else {
      for (std::int64_t k = 0; k < width; ++k)
        for (int l = 0; l < batch_rows; ++l) columns.value[k][l] = l < count_ ? logits[l * stride + k] : 0.0f;
    }
    if (!args_.mask.present()) return;
    for (std::int64_t k = 0; k < width; ++k)
      for (int l = 0; l < count_; ++l)
        columns.value[k][l] = is_allowed(args_, (first_ + l) * stride + from + k) ? columns.value[k][l] : -infinity;
  }

 private:
  const CategoricalArgs& args_;
  std::int64_t first_;
  int count_;
};

// Calls body(columns, from, width) for the chunks of categories [begin, begin + size). A single chunk is loaded once and kept.
template <class Body>
PYRL_INLINE void for_chunks(const Rows& rows, Columns& columns, std::int64_t begin, std::int64_t size, const Body& body) {
  for (std::int64_t from = 0; from < size; from += chunk) {
    const std::int64_t width = std::min(chunk, size - from);
    rows.load(columns, begin + from, width);
    body(from, width);
  }
}

// The largest logit, and with `index` its place.
PYRL_INLINE void find_largest(const Columns& columns, Tile& tile, std::int64_t from, std::int64_t width, bool index) {
  for (std::int64_t k = 0; k < width; ++k) {
    if (index)
      for (int l = 0; l < batch_rows; ++l) tile.action[l] = columns.value[k][l] > tile.largest[l] ? from + k : tile.action[l];
    for (int l = 0; l < batch_rows; ++l) tile.largest[l] = columns.value[k][l] > tile.largest[l] ? columns.value[k][l] : tile.largest[l];
  }
}

PYRL_INLINE void weigh(Columns& columns, const Tile& tile, std::int64_t width) {
  for (std::int64_t k = 0; k < width; ++k)
    for (int l = 0; l < batch_rows; ++l) columns.value[k][l] = category_weight(columns.value[k][l], tile.largest[l]);
}

PYRL_INLINE void add_weights(const Columns& columns, Tile& tile, std::int64_t width) {
  for (std::int64_t k = 0; k < width; ++k)
    for (int l = 0; l < batch_rows; ++l) tile.total[l] += static_cast<double>(columns.value[k][l]);
}

// Counts the running sums that do not exceed the threshold: that many categories come before the action.
PYRL_INLINE void count_below(const Columns& columns, Tile& tile, double (&sum)[batch_rows], std::int64_t width) {
  for (std::int64_t k = 0; k < width; ++k)
    for (int l = 0; l < batch_rows; ++l) {
      sum[l] += static_cast<double>(columns.value[k][l]);
      tile.action[l] += sum[l] <= tile.threshold[l] ? 1 : 0;
    }
}

PYRL_INLINE void draw_component(const CategoricalArgs& args, const Rows& rows, Columns& columns, Tile& tile, const PhiloxBatch& words,
                                std::int64_t m, std::int64_t begin) {
  const std::int64_t size = args.nvec(m);
  const bool kept = size <= chunk;
  for (int l = 0; l < batch_rows; ++l) {
    tile.largest[l] = -infinity;
    tile.total[l] = 0;
    tile.action[l] = 0;
  }
  for_chunks(rows, columns, begin, size, [&](std::int64_t from, std::int64_t width) PYRL_INLINE_LAMBDA {
    find_largest(columns, tile, from, width, args.deterministic);
  });
  if (kept) {
    weigh(columns, tile, size);
    add_weights(columns, tile, size);
  } else {
    for_chunks(rows, columns, begin, size, [&](std::int64_t, std::int64_t width) PYRL_INLINE_LAMBDA {
      weigh(columns, tile, width);
      add_weights(columns, tile, width);
    });
  }
  if (!args.deterministic) {
    const int half = 2 * (m & 1);
    alignas(64) double sum[batch_rows] = {};
    for (int l = 0; l < batch_rows; ++l) tile.threshold[l] = category_threshold(words.word[half][l], words.word[half + 1][l], tile.total[l]);
    if (kept) {
      count_below(columns, tile, sum, size);
    } else {
      for_chunks(rows, columns, begin, size, [&](std::int64_t, std::int64_t width) PYRL_INLINE_LAMBDA {
        weigh(columns, tile, width);
        count_below(columns, tile, sum, width);
      });
    }
  }
  // Logits that another thread changed since they were checked may sum to anything.
  for (int l = 0; l < batch_rows; ++l) tile.action[l] = std::min(tile.action[l], size - 1);
  alignas(64) float chosen[batch_rows] = {};
  for (int l = 0; l < rows.count(); ++l) chosen[l] = args.logits(rows.first() + l, begin + tile.action[l]);
  for (int l = 0; l < batch_rows; ++l) tile.log_prob[l] += category_log_prob(chosen[l], tile.largest[l], tile.total[l]);
}

PYRL_INLINE void draw_tile(const CategoricalArgs& args, std::int64_t index) {
  const Rows rows(args, index);
  const std::int64_t components = args.nvec.extent[0];
  Columns columns;
  PhiloxBatch words;
  Tile tile;
  for (float& value : tile.log_prob) value = 0;
  std::int64_t begin = 0;
  for (std::int64_t m = 0; m < components; ++m) {
    if (m % 2 == 0 && !args.deterministic)
      fill_words(words, args.random.key, args.random.draw, static_cast<std::uint32_t>(rows.first()), static_cast<std::uint32_t>(m / 2));
    draw_component(args, rows, columns, tile, words, m, begin);
    for (int l = 0; l < rows.count(); ++l) args.action(rows.first() + l, m) = tile.action[l];
    begin += args.nvec(m);
  }
  for (int l = 0; l < rows.count(); ++l) args.log_prob(rows.first() + l) = tile.log_prob[l];
}

// Whether all logits of the rows are finite: then each component without a mask has a possible action.
PYRL_INLINE bool all_finite(const CategoricalArgs& args, const Rows& rows) {
  const std::int64_t stride = args.logits.extent[1];
  const float* logits = args.logits.data + rows.first() * stride;
  std::uint32_t outside = 0;
  for (std::int64_t i = 0; i < rows.count() * stride; ++i) outside |= static_cast<std::uint32_t>(!(std::fabs(logits[i]) < infinity));
  return outside == 0;
}

// Whether the tile holds a NaN, a +inf or a component without a possible action.
PYRL_INLINE bool is_bad(const CategoricalArgs& args, std::int64_t index) {
  const Rows rows(args, index);
  if (!args.mask.present() && all_finite(args, rows)) return false;
  Columns columns;
  Tile tile;
  std::int64_t begin = 0;
  std::uint32_t bad[batch_rows] = {};
  for (std::int64_t m = 0; m < args.nvec.extent[0]; ++m) {
    for (float& value : tile.largest) value = -infinity;
    for_chunks(rows, columns, begin, args.nvec(m), [&](std::int64_t from, std::int64_t width) PYRL_INLINE_LAMBDA {
      find_largest(columns, tile, from, width, false);
      for (std::int64_t k = 0; k < width; ++k)
        for (int l = 0; l < batch_rows; ++l) bad[l] |= static_cast<std::uint32_t>(!(columns.value[k][l] < infinity));
    });
    for (int l = 0; l < batch_rows; ++l) bad[l] |= static_cast<std::uint32_t>(tile.largest[l] == -infinity);
    begin += args.nvec(m);
  }
  std::uint32_t any = 0;
  for (std::uint32_t flag : bad) any |= flag;
  return any != 0;
}

// Says what is wrong in a tile found bad.
[[noreturn]] void throw_bad(const CategoricalArgs& args, std::int64_t index) {
  const Rows rows(args, index);
  for (std::int64_t row = rows.first(); row < rows.first() + rows.count(); ++row) {
    std::int64_t begin = 0;
    for (std::int64_t m = 0; m < args.nvec.extent[0]; begin += args.nvec(m++)) {
      bool possible = false;
      for (std::int64_t k = begin; k < begin + args.nvec(m); ++k) {
        if (args.mask.present() && !is_allowed(args, row * args.logits.extent[1] + k)) continue;
        const float logit = args.logits(row, k);
        PYRL_CHECK(logit < infinity, NonFiniteError, args.function, ": logits has ", std::isnan(logit) ? "nan" : "inf", " in row ", row,
                   ", column ", k, ", expected numbers or -inf");
        possible |= logit > -infinity;
      }
      PYRL_CHECK(possible, ArgumentError, args.function, ": row ", row, " allows no action (columns ", begin, " to ",
                 begin + args.nvec(m) - 1, " are -inf or masked), expected at least one");
    }
  }
  throw ArgumentError(concat(args.function, ": logits changed while being read"));
}

}  // namespace

void sample_categorical(const CategoricalArgs& args) {
  const std::int64_t tiles = (args.logits.extent[0] + batch_rows - 1) / batch_rows;
  const std::int64_t grain = std::max<std::int64_t>(1, 1024 / std::max<std::int64_t>(args.logits.extent[1], 1));
  struct Job {
    const CategoricalArgs& args;
    std::atomic<std::int64_t> bad;
  } job{args, tiles};
  parallel_for(tiles, grain, [&job](std::int64_t begin, std::int64_t end) {
    simd::dispatch([&]() PYRL_INLINE_LAMBDA {
      for (std::int64_t tile = begin; tile < end; ++tile) {
        if (!is_bad(job.args, tile)) continue;
        std::int64_t first = job.bad.load();
        while (tile < first && !job.bad.compare_exchange_weak(first, tile)) {}
        break;
      }
    });
  });
  if (job.bad.load() < tiles) throw_bad(args, job.bad.load());
  parallel_for(tiles, grain, [&args](std::int64_t begin, std::int64_t end) {
    simd::dispatch([&]() PYRL_INLINE_LAMBDA {
      for (std::int64_t tile = begin; tile < end; ++tile) draw_tile(args, tile);
    });
  });
}

}  // namespace pyrl::sampling
