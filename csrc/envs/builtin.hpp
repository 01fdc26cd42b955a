// The environments that come with pyrl: Gymnasium's, with the same arithmetic in the same order, so that the bits are the same where
// libm is the one that Python calls. Their parameters are the attributes of Gymnasium's own objects (pyrl/envs/native.py).
//
// PyPI's Gymnasium 1.4 (Towers et al. 2024, arXiv:2407.17032) is what each is compared with, in tests/envs/test_native.py.
#pragma once

#include <string>

#include "pyrl_env.h"

namespace pyrl::envs {

extern const pyrl_env cart_pole, pendulum, acrobot, mountain_car, mountain_car_continuous, tabular;

// Null where there is none of this name.
const pyrl_env* builtin(const std::string& name);

}  // namespace pyrl::envs
