#include "returns/vtrace.hpp"

namespace pyrl::returns {
namespace {

template <class T>
struct Ratio {
  const T *log_prob, *behaviour_log_prob;
  T* ratio;

  template <class L>
  PYRL_INLINE typename L::Value at(std::int64_t i) const {
    return exponential<L>(L::load(log_prob + i) - L::load(behaviour_log_prob + i));
  }
  template <class L, bool>
  PYRL_INLINE void step(const RolloutPointers<T>&, std::int64_t, std::int64_t i, typename L::Value&) const {
    L::store(ratio + i, at<L>(i));
  }
};

template <class T>
struct Vtrace {
  Ratio<T> ratio;
  bool ratio_in_vs;
  T *vs, *pg_advantage;
  VtraceScalars<T> scalars;

  template <class L, bool Plain>
  PYRL_INLINE void step(const RolloutPointers<T>& from, std::int64_t t, std::int64_t i, typename L::Value& carry) const {
    const auto step = read_step<L, Plain>(from, i, from.last(t));
    const auto value = L::load(from.value + i);
    const auto result = vtrace_step<L>(step, value, ratio_in_vs ? L::load(vs + i) : ratio.template at<L>(i), scalars, carry);
    carry = zero_where(step.dead, result.correction);
    L::store(vs + i, zero_where(step.dead, carry + value));
    L::store(pg_advantage + i, zero_where(step.dead, result.pg_advantage));
  }
};

}  // namespace

template <class T>
void vtrace(const VtraceArgs<T>& args) {
  check_bootstrap(args.rollout, "vtrace");
  const VtraceScalars<T> scalars{static_cast<T>(args.gamma), static_cast<T>(args.lambda), static_cast<T>(args.rho_bar), static_cast<T>(args.c_bar)};
  const Ratio<T> ratio{args.log_prob.data, args.behaviour_log_prob.data, args.vs.data};
  // Rows of one to three environments would leave most lanes of the exponential empty, so it runs ahead over all elements as
  // one row. `vs` holds the ratios until each is replaced: with so few environments no vector covers an element twice.
  const bool ratio_in_vs = args.rollout.environments() < 4;
  if (ratio_in_vs) sweep(RolloutPointers<T>(args.rollout), 1, args.vs.size(), ratio);
  sweep(args.rollout, Vtrace<T>{ratio, ratio_in_vs, args.vs.data, args.pg_advantage.data, scalars});
}

template void vtrace(const VtraceArgs<float>&);
template void vtrace(const VtraceArgs<double>&);

}  // namespace pyrl::returns
