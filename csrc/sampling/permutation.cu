#include "sampling/permutation.hpp"

#include "sampling/shuffle.cuh"

namespace pyrl::sampling {
namespace {

// Inside out: step i copies entry j_i to place i and puts i into place j_i.
struct LinkPermutation {
  PermutationArgs args;
  Moves moves;

  PYRL_HD void operator()(std::int64_t i) const {
    const auto step = static_cast<std::uint32_t>(i);
    const RandomStream random = args.random.read();
    const PhiloxBlock words = philox(random.key, random.draw, step >> 2, 0);
    const std::uint32_t low = (step & 1) != 0 ? words[1] : words[0], high = (step & 1) != 0 ? words[3] : words[2];
    moves.link(i, shuffle_target((step & 2) != 0 ? high : low, random.key, random.draw, step));
  }
};

struct ResolvePermutation {
  PermutationArgs args;
  Moves moves;

  PYRL_HD void operator()(std::int64_t place) const {
    const std::uint32_t last = moves.latest(place, args.out.extent[0]);
    args.out(place) = last != Moves::none && last != place ? last : copied(place);
  }

 private:
  // What step i copied: of place j_i, where the latest step below i had put its own number, if not step j_i itself copied there.
  PYRL_HD std::int64_t copied(std::int64_t i) const {
    for (;;) {
      const std::int64_t from = moves.target(i);
      if (from == i) return i;
      const std::uint32_t last = moves.latest(from, i);
      if (last != Moves::none && last != from) return last;
      i = from;
    }
  }
};

}  // namespace

void permutation_cuda(const PermutationArgs& args, void* space, const CudaStream& stream) {
  const std::int64_t n = args.out.extent[0];
  PYRL_CHECK(n < (std::int64_t{1} << 32), ArgumentError, "permutation: n is ", n, ", expected less than 2^32");
  shuffle_cuda<LinkPermutation, ResolvePermutation>(args, n, space, stream);
}

}  // namespace pyrl::sampling
