#include "sampling/permutation.hpp"

#include <algorithm>

#include "core/check.hpp"
#include "core/interrupt.hpp"
#include "sampling/philox_batch.hpp"

namespace pyrl::sampling {

void permutation(const PermutationArgs& args) {
  const std::int64_t n = args.out.extent[0];
  PYRL_CHECK(n < (std::int64_t{1} << 32), ArgumentError, "permutation: n is ", n, ", expected less than 2^32");
  simd::dispatch([&]() PYRL_INLINE_LAMBDA {
    std::int64_t* out = args.out.data;
    for (std::int64_t first = 0; first < n; first += 4 * batch_rows) {
      if (first % (1 << 16) == 0) check_interrupt();
      PhiloxBatch words;
      fill_words(words, args.random.key, args.random.draw, static_cast<std::uint32_t>(first >> 2), 0);
      const std::int64_t last = std::min(first + 4 * batch_rows, n);
      for (std::int64_t i = first; i < last; ++i) {
        const std::uint32_t word = words.word[i & 3][(i - first) >> 2];
        const std::int64_t j = shuffle_target(word, args.random.key, args.random.draw, static_cast<std::uint32_t>(i));
        out[i] = i;  // what out_j is where j = i
        out[i] = out[j];
        out[j] = i;
      }
    }
  });
}

}  // namespace pyrl::sampling
