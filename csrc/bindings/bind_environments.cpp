// Native environments. The Python face is pyrl.ops.environments.
#include <pybind11/stl.h>

#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <tuple>

#include "bindings/environment_core.hpp"
#include "bindings/fast_call.hpp"
#include "bindings/registry.hpp"
#include "envs/builtin.hpp"
#include "envs/library.hpp"
#include "envs/probe.hpp"

namespace py = pybind11;
using namespace pyrl;
using namespace pyrl::bindings;

namespace pyrl::bindings {

PoolCore::PoolCore(py::object environment_object, const std::vector<double>& parameters, std::int64_t count, std::int64_t limit)
    : environment(std::move(environment_object)), foreign(environment.cast<EnvironmentObject&>().foreign),
      pool(environment.cast<EnvironmentObject&>().env, parameters, count, limit) {}

void* PoolCore::rows(const ArrayArg& arg, const pyrl_space& space) const {
  if (!arg.given()) return nullptr;
  arg.require_cpu();
  arg.require_dtype(space.dtype == PYRL_INT64 ? DType::Int64 : space.dtype == PYRL_UINT8 ? DType::UInt8 : DType::Float32);
  arg.require_contiguous();
  const std::int64_t expected = pool.count() * envs::bytes_of(space);
  PYRL_CHECK(arg.rank >= 1 && arg.shape[0] == pool.count() && arg.bytes() == expected, ShapeError, arg.function, ": ", arg.name, " has shape ", arg.shape_text(),
             ", expected [N, ...] with N = ", pool.count(), " and ", expected, " bytes");
  return arg.data;
}

}  // namespace pyrl::bindings

namespace {

// (kind, dtype, shape, low, high): of a Discrete, the shape is (n,).
using SpaceTuple = std::tuple<int, int, std::vector<std::int64_t>, std::optional<std::vector<double>>, std::optional<std::vector<double>>>;

pyrl_space read_space(EnvironmentObject& owner, const SpaceTuple& tuple) {
  const auto& [kind, dtype, shape, low, high] = tuple;
  PYRL_CHECK(shape.size() <= 4, ArgumentError, "Environment: a space has ", shape.size(), " dimensions, expected at most 4");
  pyrl_space space{kind, dtype, kind == PYRL_DISCRETE ? 0 : static_cast<std::int32_t>(shape.size()), {}, nullptr, nullptr};
  std::copy(shape.begin(), shape.end(), space.shape);
  if (low) space.low = owner.numbers.emplace_back(*low).data();
  if (high) space.high = owner.numbers.emplace_back(*high).data();
  return space;
}

SpaceTuple tuple_of(const pyrl_space& space) {
  const bool discrete = space.kind == PYRL_DISCRETE;
  SpaceTuple tuple{space.kind, space.dtype, {space.shape, space.shape + (discrete ? 1 : space.rank)}, {}, {}};
  std::int64_t size = 1;
  for (int axis = 0; axis < space.rank; ++axis) size *= space.shape[axis];
  if (space.low != nullptr) std::get<3>(tuple).emplace(space.low, space.low + size);
  if (space.high != nullptr) std::get<4>(tuple).emplace(space.high, space.high + size);
  return tuple;
}

std::unique_ptr<EnvironmentObject> builtin(const std::string& name) {
  const pyrl_env* const found = envs::builtin(name);
  PYRL_CHECK(found != nullptr, ArgumentError, "Environment: there is no environment '", name, "'");
  auto object = std::make_unique<EnvironmentObject>();
  object->env = *found;
  return object;
}

// A table of S states and A actions: see envs/tabular.cpp, whose parameters these are.
std::unique_ptr<EnvironmentObject> table(std::int64_t states, std::int64_t actions) {
  auto object = builtin("Tabular");
  object->env.observation.shape[0] = states;
  object->env.action.shape[0] = actions;
  envs::check_description(object->env, "Environment");
  return object;
}

std::unique_ptr<EnvironmentObject> load(const std::string& path, const std::string& name) {
  auto object = std::make_unique<EnvironmentObject>();
  object->env = envs::load_environment(path, name);
  object->foreign = true;
  return object;
}

std::unique_ptr<EnvironmentObject> from_functions(const SpaceTuple& observation, const SpaceTuple& action, std::uint64_t state_size,
                                                  std::uint32_t reset_uniforms, std::uint32_t step_uniforms, std::uint32_t max_episode_steps,
                                                  std::vector<std::string> names, std::vector<double> values, std::uintptr_t reset,
                                                  std::uintptr_t step) {
  PYRL_CHECK(names.size() == values.size(), ArgumentError, "Environment: ", names.size(), " names, but ", values.size(), " values");
  auto object = std::make_unique<EnvironmentObject>();
  object->foreign = true;
  object->names = std::move(names);
  for (const std::string& name : object->names) object->name_pointers.push_back(name.c_str());
  pyrl_env& env = object->env;
  env = {PYRL_ENV_VERSION, sizeof(pyrl_env), read_space(*object, observation), read_space(*object, action), state_size, reset_uniforms, step_uniforms,
         max_episode_steps, static_cast<std::uint32_t>(values.size()), object->name_pointers.data(), nullptr,
         reinterpret_cast<pyrl_reset_function>(reset), reinterpret_cast<pyrl_step_function>(step), nullptr, nullptr};
  env.parameters = object->numbers.emplace_back(std::move(values)).data();
  envs::check_description(env, "Environment");
  return object;
}

std::vector<std::pair<std::string, double>> parameters(const EnvironmentObject& self) {
  std::vector<std::pair<std::string, double>> all;
  for (std::uint32_t i = 0; i < self.env.num_parameters; ++i) all.emplace_back(self.env.parameter_names[i], self.env.parameters[i]);
  return all;
}

PoolCore* make_pool(py::object environment, const std::vector<double>& values, std::int64_t count, std::int64_t limit) {
  PYRL_CHECK(py::isinstance<EnvironmentObject>(environment), DTypeError, "EnvironmentPool: environment is a ", Py_TYPE(environment.ptr())->tp_name,
             ", expected an Environment");
  const auto& env = environment.cast<EnvironmentObject&>().env;
  PYRL_CHECK(count >= 1 && count < (std::int64_t{1} << 31), ArgumentError, "EnvironmentPool: count is ", count, ", expected 1 to 2^31 - 1");
  PYRL_CHECK(limit >= 0, ArgumentError, "EnvironmentPool: limit is ", limit, ", expected at least 0");
  PYRL_CHECK(values.size() >= env.num_parameters, ArgumentError, "EnvironmentPool: ", values.size(), " parameters, expected ", env.num_parameters);
  return new PoolCore(std::move(environment), values, count, limit);
}

// None, or (environment, what it did).
py::object told(const envs::Fault& fault) {
  if (!fault) return py::none();
  return py::make_tuple(fault.env, fault.text);
}

// (mask or None, parameters or None, observation)
py::object reset(PoolCore& core, FastArgs args) {
  const char* function = "reset";
  Border border(function);
  const std::int64_t n = core.pool.count();
  const bool* mask = nullptr;
  const double* values = nullptr;
  if (!args[0].is_none()) mask = border.input(args[0], "mask").as<const bool, 1>({n}, "[N]").data;
  if (!args[1].is_none()) values = border.input(args[1], "parameters").as<const double, 1>({core.pool.env().num_parameters}, "[P]").data;
  void* const observation = core.rows(border.output(args[2], "observation"), core.pool.env().observation);
  return told(alone(core.lock, [&] { return core.pool.reset(mask, values, observation); }, core.when()));
}

// (action, following, after, reward, terminated, truncated, restart) -> how many episodes ended, or (environment, what it did)
py::object step(PoolCore& core, FastArgs args) {
  const char* function = "step";
  Border border(function);
  const std::int64_t n = core.pool.count();
  const pyrl_env& env = core.pool.env();
  const ArrayArg action = border.input(args[0], "action");
  const void* const actions = core.rows(action, env.action);
  if (env.action.kind == PYRL_DISCRETE) {
    const auto* const chosen = static_cast<const std::int64_t*>(actions);
    for (std::int64_t i = 0; i < n; ++i)
      PYRL_CHECK(chosen[i] >= 0 && chosen[i] < env.action.shape[0], ArgumentError, "step: action of environment ", i, " is ", chosen[i],
                 ", expected at least 0 and less than ", env.action.shape[0]);
  }
  void* const following = core.rows(border.output(args[1], "following"), env.observation);
  void* const after = core.rows(border.output(args[2], "after"), env.observation);
  double* const reward = border.output(args[3], "reward").as<double, 1>({n}, "[N]").data;
  bool* const terminated = border.output(args[4], "terminated").as<bool, 1>({n}, "[N]").data;
  bool* const truncated = border.output(args[5], "truncated").as<bool, 1>({n}, "[N]").data;
  const bool restart = flag_arg(args[6], function, "restart");
  std::int64_t ended = 0;
  const envs::Fault fault =
      alone(core.lock, [&] { return core.pool.step(actions, following, after, reward, terminated, truncated, restart, ended); }, core.when());
  if (fault) return told(fault);
  return py::int_(ended);
}

void seed(PoolCore& core, const std::vector<std::uint64_t>& keys) {
  PYRL_CHECK(static_cast<std::int64_t>(keys.size()) == core.pool.count(), ShapeError, "seed: ", keys.size(), " keys, expected N = ", core.pool.count());
  alone(core.lock, [&] {
    for (std::size_t i = 0; i < keys.size(); ++i) core.pool.seed(static_cast<std::int64_t>(i), keys[i]);
  });
}

void require_bytes(const PoolCore& core) {
  PYRL_CHECK(core.pool.can_copy(), ArgumentError, "the environments' states are not plain bytes (they have an open function), and cannot be copied");
}

py::object get_state(PoolCore& core) {
  require_bytes(core);
  py::object owner;
  const auto view = allocate<std::uint8_t, 2>(owner, Location(Kind::NumPy), {core.pool.count(), core.pool.copy_bytes()});
  alone(core.lock, [&] {
    for (std::int64_t i = 0; i < core.pool.count(); ++i) core.pool.save(i, reinterpret_cast<std::byte*>(view.row(i)));
  });
  return owner;
}

void set_state(PoolCore& core, py::handle state) {
  require_bytes(core);
  const auto view = read_array(state, "EnvironmentPool", "state").as<const std::uint8_t, 2>({core.pool.count(), core.pool.copy_bytes()}, "[N, bytes]");
  alone(core.lock, [&] {
    for (std::int64_t i = 0; i < core.pool.count(); ++i) core.pool.load(i, reinterpret_cast<const std::byte*>(view.row(i)));
  });
}

}  // namespace

PYRL_BINDINGS(environments, m) {
  py::class_<EnvironmentObject>(m, "Environment", "The description of a native environment.")
      .def_static("builtin", &builtin, py::arg("name"))
      .def_static("table", &table, py::arg("states"), py::arg("actions"))
      .def_static("load", &load, py::arg("path"), py::arg("name"))
      .def_static("from_functions", &from_functions, py::arg("observation"), py::arg("action"), py::arg("state_size"), py::arg("reset_uniforms"),
                  py::arg("step_uniforms"), py::arg("max_episode_steps"), py::arg("names"), py::arg("values"), py::arg("reset"), py::arg("step"))
      .def_property_readonly("observation", [](const EnvironmentObject& self) { return tuple_of(self.env.observation); })
      .def_property_readonly("action", [](const EnvironmentObject& self) { return tuple_of(self.env.action); })
      .def_property_readonly("max_episode_steps", [](const EnvironmentObject& self) { return self.env.max_episode_steps; })
      .def_property_readonly("plain", [](const EnvironmentObject& self) { return self.env.open == nullptr; }, "Whether states can be copied.")
      .def_property_readonly("parameters", &parameters, "(name, value) in their order.")
      .def("probe", [](const EnvironmentObject& self, const std::vector<double>& values) { return envs::probe(self.env, values); }, py::arg("values"),
           "What is wrong with it, or nothing; in a process that may be lost.");
  py::class_<PoolCore> pool(m, "EnvironmentPool", "N environments of one kind.");
  pool.def(py::init(&make_pool), py::arg("environment"), py::arg("parameters"), py::arg("count"), py::arg("limit"))
      .def_property_readonly("count", [](const PoolCore& core) { return core.pool.count(); })
      .def("seed", &seed, py::arg("keys"))
      .def_property("state", &get_state, &set_state, "uint8 [N, bytes]: key, step and length of the episode (64 bits each), then the state's own.");
  def_fast_method<PoolCore, reset, "reset(mask, parameters, observation)">(pool);
  def_fast_method<PoolCore, step, "step(action, following, after, reward, terminated, truncated, restart)">(pool);
}
