#include "returns/gae.hpp"

namespace pyrl::returns {
namespace {

template <class T>
struct Gae {
  T *advantage, *return_;
  T gamma, decay;

  template <class L, bool Plain>
  PYRL_INLINE void step(const RolloutPointers<T>& from, std::int64_t t, std::int64_t i, typename L::Value& carry) const {
    const auto step = read_step<L, Plain>(from, i, from.last(t));
    const auto value = L::load(from.value + i);
    carry = zero_where(step.dead, gae_step<L>(step, value, gamma, decay, carry));
    L::store(advantage + i, carry);
    L::store(return_ + i, zero_where(step.dead, carry + value));
  }
};

}  // namespace

template <class T>
void gae(const GaeArgs<T>& args) {
  check_bootstrap(args.rollout, "gae");
  sweep(args.rollout, Gae<T>{args.advantage.data, args.return_.data, static_cast<T>(args.gamma), static_cast<T>(args.gamma * args.gae_lambda)});
}

template void gae(const GaeArgs<float>&);
template void gae(const GaeArgs<double>&);

}  // namespace pyrl::returns
