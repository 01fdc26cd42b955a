#include "returns/vtrace.hpp"

namespace pyrl::returns {
namespace {

template <class T>
struct Ratio {
  const VtraceArgs<T>& args;
  T* ratio;

  template <class L, bool>
  PYRL_INLINE typename L::Value read(const RolloutPointers<T>&, std::int64_t, std::int64_t i) const {
    return L::load(args.log_prob.data + i) - L::load(args.behaviour_log_prob.data + i);
  }
  template <class L, bool>
  PYRL_INLINE void step(const RolloutPointers<T>&, typename L::Value log_ratio, std::int64_t, std::int64_t i, typename L::Value&) const {
    L::store(ratio + i, exponential<L>(log_ratio));
  }
};

}  // namespace

template <class T>
void vtrace(const VtraceArgs<T>& args) {
  check_bootstrap(args.rollout, "vtrace");
  VtraceRecursion<T> recursion(args);
  // Rows of one to three environments would leave most lanes of the exponential empty, so it runs ahead over all elements as
  // one row. `vs` holds the ratios until each is replaced: with so few environments no vector covers an element twice.
  if (args.rollout.environments() < 4) {
    sweep(RolloutPointers<T>(args.rollout), 1, args.vs.size(), Ratio<T>{args, args.vs.data});
    recursion.ratio = args.vs.data;
  }
  sweep(args.rollout, recursion);
}

template void vtrace(const VtraceArgs<float>&);
template void vtrace(const VtraceArgs<double>&);

}  // namespace pyrl::returns
