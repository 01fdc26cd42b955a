#include "envs/library.hpp"

#include <dlfcn.h>

#include "core/check.hpp"
#include "envs/pool.hpp"

namespace pyrl::envs {

const pyrl_env& load_environment(const std::string& path, const std::string& name) {
  // It is never unloaded: other environments may be running its code.
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw ArgumentError(concat(path, ": it cannot be loaded: ", dlerror()));
  void* const symbol = dlsym(library, ("pyrl_env_" + name).c_str());
  PYRL_CHECK(symbol != nullptr, ArgumentError, path, ": there is no environment ", name, ": the library exports no pyrl_env_", name, "; PYRL_ENV(", name,
             ") { .. } does");
  const auto* const env = reinterpret_cast<const pyrl_env* (*)()>(symbol)();
  PYRL_CHECK(env != nullptr, ArgumentError, path, ":", name, ": pyrl_env_", name, " returned NULL");
  check_description(*env, path + ":" + name);
  return *env;
}

}  // namespace pyrl::envs
