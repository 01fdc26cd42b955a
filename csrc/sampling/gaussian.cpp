#include "sampling/gaussian.hpp"

#include <algorithm>
#include <limits>

#include "core/check.hpp"
#include "core/parallel.hpp"
#include "sampling/philox_batch.hpp"

namespace pyrl::sampling {
namespace {

struct alignas(64) Normals {
  float z[4][batch_rows];
};

PYRL_INLINE void fill_normals(Normals& normals, const GaussianArgs& args, std::int64_t row, std::int64_t block) {
  PhiloxBatch words;
  fill_words(words, args.random.key, args.random.draw, static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(block));
  for (int pair = 0; pair < 4; pair += 2)
    for (int l = 0; l < batch_rows; ++l) {
      const NormalPair normal = box_muller(words.word[pair][l], words.word[pair + 1][l]);
      normals.z[pair][l] = normal.first;
      normals.z[pair + 1][l] = normal.second;
    }
}

// out[l] = from[l stride] for l < count, 0 beyond.
PYRL_INLINE void load_column(float (&out)[batch_rows], const float* from, std::int64_t stride, int count) {
  if (count == batch_rows) {
    for (int l = 0; l < batch_rows; ++l) out[l] = from[l * stride];
  } else {
    for (int l = 0; l < batch_rows; ++l) out[l] = l < count ? from[l * stride] : 0.0f;
  }
}

// exp(log_std) and its inverse, in the lanes of one column.
struct alignas(64) Scale {
  float log_std[batch_rows], std[batch_rows], inverse_std[batch_rows];

  PYRL_INLINE void load(const GaussianArgs& args, std::int64_t first, std::int64_t a, int count) {
    const bool shared = args.log_std.extent[0] == 1;
    const std::int64_t dimensions = args.mean.extent[1];
    load_column(log_std, args.log_std.data + (shared ? a : first * dimensions + a), shared ? 0 : dimensions, count);
    for (int l = 0; l < batch_rows; ++l) {
      std[l] = elementary::exp(log_std[l]);
      inverse_std[l] = elementary::exp(-log_std[l]);
    }
  }
};

constexpr std::int64_t kept_columns = 16;  // of a shared log_std

// `kept` holds the scales of the first columns if log_std is shared.
PYRL_INLINE void draw_tile(const GaussianArgs& args, const Scale* kept, std::int64_t tile) {
  const std::int64_t first = tile * batch_rows, dimensions = args.mean.extent[1];
  const int count = static_cast<int>(std::min<std::int64_t>(batch_rows, args.mean.extent[0] - first));
  const bool shared = args.log_std.extent[0] == 1;
  Normals normals{};
  Scale own;
  alignas(64) float mean[batch_rows], action[batch_rows], cost[batch_rows] = {};
  for (std::int64_t a = 0; a < dimensions; ++a) {
    if (a % 4 == 0 && !args.deterministic) fill_normals(normals, args, first, a / 4);
    const float (&z)[batch_rows] = normals.z[a % 4];
    load_column(mean, args.mean.data + first * dimensions + a, dimensions, count);
    const bool is_kept = shared && a < kept_columns;
    if (!is_kept) own.load(args, first, a, count);
    const Scale& scale = is_kept ? kept[a] : own;
    for (int l = 0; l < batch_rows; ++l) {
      action[l] = gaussian_action(mean[l], scale.std[l], z[l]);
      cost[l] += gaussian_cost(mean[l], scale.log_std[l], scale.inverse_std[l], action[l]);
    }
    for (int l = 0; l < count; ++l) args.action.data[(first + l) * dimensions + a] = action[l];
  }
  for (int l = 0; l < count; ++l) args.log_prob(first + l) = -(cost[l] + static_cast<float>(dimensions) * log_sqrt_2pi);
}

// Whether |value| <= bound everywhere (NaN is not).
bool all_within(const float* values, std::int64_t count, float bound) {
  std::uint32_t outside = 0;
  simd::dispatch([&]() PYRL_INLINE_LAMBDA {
    std::uint32_t flags = 0;
    for (std::int64_t i = 0; i < count; ++i) flags |= std::fabs(values[i]) <= bound ? 0u : 1u;
    outside = flags;
  });
  return outside == 0;
}

void require_within(const ArrayView<const float, 2>& array, float bound, const char* name, const char* expected) {
  if (all_within(array.data, array.size(), bound)) return;
  for (std::int64_t i = 0; i < array.size(); ++i) {
    const float value = array.data[i];
    if (std::fabs(value) <= bound) continue;
    const std::string text = concat("sample_gaussian: ", name, " has ", value, " in row ", i / array.extent[1], ", column ",
                                    i % array.extent[1], ", expected ", expected);
    if (!std::isfinite(value)) throw NonFiniteError(text);
    throw ArgumentError(text);
  }
}

}  // namespace

void sample_gaussian(const GaussianArgs& args) {
  require_within(args.mean, std::numeric_limits<float>::max(), "mean", "finite numbers");
  require_within(args.log_std, log_std_bound, "log_std", "numbers in [-80, 80]");
  const std::int64_t tiles = (args.mean.extent[0] + batch_rows - 1) / batch_rows;
  const std::int64_t grain = std::max<std::int64_t>(1, 512 / std::max<std::int64_t>(args.mean.extent[1], 1));
  parallel_for(tiles, grain, [&args](std::int64_t begin, std::int64_t end) {
    simd::dispatch([&]() PYRL_INLINE_LAMBDA {
      Scale kept[kept_columns];
      if (args.log_std.extent[0] == 1)
        for (std::int64_t a = 0; a < std::min(kept_columns, args.mean.extent[1]); ++a) kept[a].load(args, 0, a, batch_rows);
      for (std::int64_t tile = begin; tile < end; ++tile) draw_tile(args, kept, tile);
    });
  });
}

}  // namespace pyrl::sampling
