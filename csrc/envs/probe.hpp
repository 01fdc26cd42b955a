// A first look at an environment compiled elsewhere: a few hundred steps of one of them, between bytes that it may not write to.
#pragma once

#include <string>
#include <vector>

#include "pyrl_env.h"

namespace pyrl::envs {

// What is wrong with it, in words; empty: nothing was found. Whatever it may do to its process, it does to this one.
std::string probe(const pyrl_env& env, const std::vector<double>& parameters);

}  // namespace pyrl::envs
