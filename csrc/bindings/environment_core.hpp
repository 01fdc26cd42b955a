// Native environments as Python holds them.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "bindings/array_arg.hpp"
#include "bindings/border.hpp"
#include "bindings/constructed.hpp"
#include "core/lock.hpp"
#include "envs/pool.hpp"

namespace pyrl::bindings {

// A description, and what it points to where Python made it.
struct EnvironmentObject {
  pyrl_env env{};
  bool foreign = false;  // a user's code: a call may take any time
  std::deque<std::vector<double>> numbers;
  std::vector<std::string> names;
  std::vector<const char*> name_pointers;

  EnvironmentObject() = default;
  EnvironmentObject(const EnvironmentObject&) = delete;
  EnvironmentObject& operator=(const EnvironmentObject&) = delete;
};

struct PoolCore {
  PoolCore(py::object environment_object, const std::vector<double>& parameters, std::int64_t count, std::int64_t limit);

  // Rows of what a space holds, [N, ...]: checked for dtype and size. Null where it is not given.
  void* rows(const ArrayArg& arg, const pyrl_space& space) const;
  ReleaseGil::When when() const { return foreign ? ReleaseGil::When::always : ReleaseGil::When::long_calls; }

  Lock lock;
  py::object environment;  // outlives the pool
  bool foreign;
  envs::Pool pool;
};

}  // namespace pyrl::bindings

PYRL_CONSTRUCTED(::pyrl::bindings::EnvironmentObject);
PYRL_CONSTRUCTED(::pyrl::bindings::PoolCore);
