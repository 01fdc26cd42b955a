#include "sampling/uniform_indices.hpp"

#include "sampling/shuffle.cuh"

namespace pyrl::sampling {
namespace {

// Indices 2 pair and 2 pair + 1 with replacement.
struct DrawIndexPair {
  UniformIndicesArgs args;

  PYRL_HD void operator()(std::int64_t pair) const {
    const RandomStream random = args.random.read();
    const PhiloxBlock words = philox(random.key, random.draw, static_cast<std::uint32_t>(pair), 0);
    for (int half = 0; half < 2; ++half) {
      const std::int64_t i = 2 * pair + half;
      if (i < args.index.extent[0])
        args.index(i) = static_cast<std::int64_t>(
            index_below(words[2 * half], words[2 * half + 1], args.high, random.key, random.draw, static_cast<std::uint64_t>(i)));
    }
  }
};

// Forwards: step i exchanges entries i and t_i >= i; entry i is not touched again.
struct LinkDistinct {
  UniformIndicesArgs args;
  Moves moves;

  PYRL_HD void operator()(std::int64_t i) const {
    const RandomStream random = args.random.read();
    const PhiloxBlock words = philox(random.key, random.draw, static_cast<std::uint32_t>(i >> 1), 0);
    const bool odd = (i & 1) != 0;
    const std::uint64_t step = index_below(odd ? words[2] : words[0], odd ? words[3] : words[1], args.high - static_cast<std::uint64_t>(i),
                                           random.key, random.draw, static_cast<std::uint64_t>(i));
    moves.link(i, i + static_cast<std::int64_t>(step));
  }
};

struct ResolveDistinct {
  UniformIndicesArgs args;
  Moves moves;

  // Step i takes what is at t_i: moved there from place s by the latest step s below i, from where it was before that, and so on.
  PYRL_HD void operator()(std::int64_t i) const {
    std::int64_t place = moves.target(i), before = i;
    for (std::uint32_t last; (last = moves.latest(place, before)) != Moves::none;) place = before = last;
    args.index(i) = place;
  }
};

}  // namespace

void uniform_indices_cuda(const UniformIndicesArgs& args, const CudaStream& stream) {
  cuda::launch_elements(stream, (args.index.extent[0] + 1) / 2, DrawIndexPair{args});
}

void distinct_indices_cuda(const UniformIndicesArgs& args, void* space, const CudaStream& stream) {
  const std::int64_t count = args.index.extent[0];
  PYRL_CHECK(static_cast<std::uint64_t>(count) <= args.high, ArgumentError, "uniform_indices: size is ", count,
             ", expected at most high = ", args.high, " without replacement");
  PYRL_CHECK(count < (std::int64_t{1} << 32), ArgumentError, "uniform_indices: size is ", count, ", expected less than 2^32 on a GPU");
  shuffle_cuda<LinkDistinct, ResolveDistinct>(args, count, space, stream);
}

}  // namespace pyrl::sampling
