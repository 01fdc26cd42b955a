#include "returns/n_step_return.hpp"

namespace pyrl::returns {

template <class T>
void n_step_return(const NStepReturnArgs<T>& args) {
  check_bootstrap(args.rollout, "n_step_return");
  sweep(RolloutPointers<T>(args.rollout), 1, args.whole_windows() * args.rollout.environments(), WholeWindows<T>(args));
  lambda_return(args.rest(), "n_step_return");
}

template void n_step_return(const NStepReturnArgs<float>&);
template void n_step_return(const NStepReturnArgs<double>&);

}  // namespace pyrl::returns
