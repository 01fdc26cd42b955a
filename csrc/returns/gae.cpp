#include "returns/gae.hpp"

namespace pyrl::returns {

template <class T>
void gae(const GaeArgs<T>& args) {
  check_bootstrap(args.rollout, "gae");
  sweep(args.rollout, GaeRecursion<T>(args));
}

template void gae(const GaeArgs<float>&);
template void gae(const GaeArgs<double>&);

}  // namespace pyrl::returns
