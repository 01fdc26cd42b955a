#include "returns/vtrace.hpp"

namespace pyrl::returns {
namespace {

template <class T>
struct Vtrace {
  const T *log_prob, *behaviour_log_prob;
  T *vs, *pg_advantage;
  VtraceScalars<T> scalars;

  template <class L, bool Plain>
  PYRL_INLINE void step(const RolloutPointers<T>& from, std::int64_t t, std::int64_t i, typename L::Value& carry) const {
    const auto step = read_step<L, Plain>(from, t, i);
    const auto value = L::load(from.value + i);
    const auto result = vtrace_step<L>(step, value, L::load(log_prob + i) - L::load(behaviour_log_prob + i), scalars, carry);
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
  sweep(args.rollout, Vtrace<T>{args.log_prob.data, args.behaviour_log_prob.data, args.vs.data, args.pg_advantage.data, scalars});
}

template void vtrace(const VtraceArgs<float>&);
template void vtrace(const VtraceArgs<double>&);

}  // namespace pyrl::returns
