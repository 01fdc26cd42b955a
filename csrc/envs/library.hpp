// Shared libraries that hold environments.
#pragma once

#include <string>

#include "pyrl_env.h"

namespace pyrl::envs {

// The environment `name` of the library at `path`, which stays loaded. ArgumentError says what is missing or wrong with it.
const pyrl_env& load_environment(const std::string& path, const std::string& name);

}  // namespace pyrl::envs
