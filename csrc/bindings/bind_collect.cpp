// A rollout in one call: a native policy acts in native environments, T steps of N environments.
#include <chrono>
#include <cmath>
#include <cstring>
#include <mutex>
#include <vector>

#include "bindings/environment_core.hpp"
#include "bindings/fast_call.hpp"
#include "bindings/network_core.hpp"
#include "bindings/policy_draw.hpp"
#include "bindings/random_arg.hpp"
#include "bindings/registry.hpp"
#include "core/interrupt.hpp"

namespace py = pybind11;
using namespace pyrl;
using namespace pyrl::bindings;

namespace {

// What a rollout writes, each [T, N, ...]; `following` holds what each step showed, the final observation where an episode ended.
struct Columns {
  std::byte *observation, *following, *action;
  double *reward, *running_return;
  bool *terminated, *truncated;
  float* log_prob;
};

struct Collect {
  PoolCore& core;
  nn::Network<float>& network;
  const float* parameters;
  PolicyDraw draw;
  ArrayView<const float, 2> low, high;  // [1, A] of Box actions; absent: no bounds
  RandomStream stream;
  std::int64_t steps;
  bool stop_at_end;
  double seconds;
  std::byte* observation;  // [N, ...], what to act on; what to act on next
  double* returns;         // [N], of unfinished episodes
  Columns columns;
  // What came of it.
  std::int64_t done = 0;
  envs::Fault fault;

  void run();

 private:
  const float* encode(std::vector<float>& memory) const;
  const void* choose(std::int64_t t, const float* output, std::vector<float>& clipped);
};

// Features [N, D], as pyrl.nets.encoder makes them.
const float* Collect::encode(std::vector<float>& memory) const {
  const pyrl_space& space = core.pool.env().observation;
  const std::int64_t n = core.pool.count(), width = network.in();
  if (space.dtype == PYRL_FLOAT32) return reinterpret_cast<const float*>(observation);
  memory.assign(static_cast<std::size_t>(n * width), 0.0f);
  if (space.dtype == PYRL_UINT8) {
    for (std::size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<float>(observation[i]) / 255.0f;
  } else {
    for (std::int64_t i = 0; i < n; ++i) memory[static_cast<std::size_t>(i * width + reinterpret_cast<const std::int64_t*>(observation)[i])] = 1.0f;
  }
  return memory.data();
}

// Draws the actions of step t, which it stores, and their log_prob. Returns the environments'.
const void* Collect::choose(std::int64_t t, const float* output, std::vector<float>& clipped) {
  const std::int64_t n = core.pool.count(), width = network.out();
  std::byte* const stored = columns.action + t * n * core.pool.action_bytes();
  draw(output, n, stored, columns.log_prob + t * n, {stream.key, stream.draw + static_cast<std::uint64_t>(t), nullptr});
  if (!draw.log_std.present()) return stored;
  const auto* const action = reinterpret_cast<const float*>(stored);
  clipped.resize(static_cast<std::size_t>(n * width));
  for (std::int64_t i = 0; i < n * width; ++i) {
    PYRL_CHECK(std::isfinite(action[i]), NonFiniteError, "step: action of environment ", i / width, " is not finite");
    float value = action[i];
    if (low.present() && value < low.data[i % width]) value = low.data[i % width];
    if (high.present() && value > high.data[i % width]) value = high.data[i % width];
    clipped[static_cast<std::size_t>(i)] = value;
  }
  return clipped.data();
}

void Collect::run() {
  const std::int64_t n = core.pool.count(), shown = n * core.pool.observation_bytes();
  std::vector<float> features, output(static_cast<std::size_t>(n * network.out())), clipped;
  std::vector<std::byte> restarted(static_cast<std::size_t>(shown));
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (done < steps) {
    check_interrupt();
    const std::int64_t t = done;
    std::memcpy(columns.observation + t * shown, observation, static_cast<std::size_t>(shown));
    network.infer(parameters, {encode(features), network.in()}, n, output.data());
    const void* const action = choose(t, output.data(), clipped);
    std::int64_t ended = 0;
    std::byte* const following = columns.following + t * shown;
    fault = core.pool.step(action, following, restarted.data(), columns.reward + t * n, columns.terminated + t * n, columns.truncated + t * n, true, ended);
    if (fault) return;
    std::memcpy(observation, ended > 0 ? restarted.data() : following, static_cast<std::size_t>(shown));
    for (std::int64_t i = t * n; i < (t + 1) * n; ++i) {
      double& sum = returns[i - t * n];
      columns.running_return[i] = sum += columns.reward[i];
      if (columns.terminated[i] || columns.truncated[i]) sum = 0;
    }
    ++done;
    if ((ended > 0 && stop_at_end) || std::chrono::steady_clock::now() >= end) return;
  }
}

// An array [T, N, ...] of what a space holds, T >= steps.
std::byte* rows_of(OutputArg& arg, const PoolCore& core, const pyrl_space& space, std::int64_t steps) {
  arg.require_cpu();
  arg.require_dtype(space.dtype == PYRL_INT64 ? DType::Int64 : space.dtype == PYRL_UINT8 ? DType::UInt8 : DType::Float32);
  arg.require_contiguous();
  arg.require_writable();
  const std::int64_t least = steps * core.pool.count() * envs::bytes_of(space);
  PYRL_CHECK(arg.bytes() >= least, ShapeError, arg.function, ": ", arg.name, " has shape ", arg.shape_text(), ", expected [T, N, ...] with ", steps, " steps of ",
             core.pool.count(), " environments");
  return static_cast<std::byte*>(arg.data);
}

template <class T>
T* column(Border& border, py::handle object, const char* name, std::int64_t steps, std::int64_t n) {
  return border.output(object, name).as<T, 2>({steps, n}, "[T, N]").data;
}

// (pool, network, parameters, log_std or None, low or None, high or None, random, steps, stop_at_end, seconds, observation, returns,
//  (observation, following, action, reward, running_return, terminated, truncated, log_prob))
//  -> (steps done, None or (environment, what it did))
py::object collect(FastArgs args) {
  const char* function = "collect";
  PYRL_CHECK(py::isinstance<PoolCore>(args[0]) && py::isinstance<NetworkCore>(args[1]), DTypeError, function, ": expected an EnvironmentPool and a NetworkCore");
  auto& core = args[0].cast<PoolCore&>();
  auto& network = args[1].cast<NetworkCore&>();
  const pyrl_env& env = core.pool.env();
  const std::int64_t n = core.pool.count();
  PYRL_CHECK(std::holds_alternative<nn::Network<float>>(network.network), DTypeError, function, ": the network is of float64, expected float32");
  const bool discrete = env.observation.kind == PYRL_DISCRETE;
  const std::int64_t inputs = discrete ? env.observation.shape[0] : envs::bytes_of(env.observation) / (env.observation.dtype == PYRL_UINT8 ? 1 : 4);
  const std::int64_t outputs = env.action.kind == PYRL_DISCRETE ? env.action.shape[0] : envs::bytes_of(env.action) / 4;
  PYRL_CHECK(network.in == inputs && network.out == outputs, ShapeError, function, ": the network is ", network.in, " -> ", network.out,
             ", expected ", inputs, " -> ", outputs, " for these environments");
  Border border(function);
  const auto* const parameters = static_cast<const float*>(network.arena(border.input(args[2], "parameters")));
  const auto row = [&](py::handle object, const char* name) -> ArrayView<const float, 2> {
    if (object.is_none()) return {};
    return {border.input(object, name).as<const float, 1>({outputs}, "[A]").data, {1, outputs}};
  };
  PYRL_CHECK(args[3].is_none() == (env.action.kind == PYRL_DISCRETE), ArgumentError, function, ": log_std is for Box actions, and for all of them");
  const auto log_std = row(args[3], "log_std"), low = row(args[4], "low"), high = row(args[5], "high");
  RandomObject& random = random_arg(args[6], function);
  RandomStream* const here = random.here();
  PYRL_CHECK(here != nullptr, DeviceError, function, ": random is on a GPU, expected the CPU");
  const std::int64_t steps = integer_arg(args[7], function, "steps");
  PYRL_CHECK(steps >= 1, ArgumentError, function, ": steps is ", steps, ", expected at least 1");
  const bool stop_at_end = flag_arg(args[8], function, "stop_at_end");
  const double seconds = number_in(args[9], 0, 1e6, function, "seconds");
  auto* const observation = static_cast<std::byte*>(core.rows(border.output(args[10], "observation"), env.observation));
  double* const returns = border.output(args[11], "returns").as<double, 1>({n}, "[N]").data;
  PYRL_CHECK(PyTuple_Check(args[12].ptr()) && PyTuple_GET_SIZE(args[12].ptr()) == 8, DTypeError, function, ": columns is not a tuple of 8 arrays");
  const auto item = [&](Py_ssize_t i) { return py::handle(PyTuple_GET_ITEM(args[12].ptr(), i)); };
  OutputArg seen = border.output(item(0), "columns.observation"), following = border.output(item(1), "columns.following"), action = border.output(item(2), "columns.action");
  const Columns columns{rows_of(seen, core, env.observation, steps),
                        rows_of(following, core, env.observation, steps),
                        rows_of(action, core, env.action, steps),
                        column<double>(border, item(3), "columns.reward", steps, n),
                        column<double>(border, item(4), "columns.running_return", steps, n),
                        column<bool>(border, item(5), "columns.terminated", steps, n),
                        column<bool>(border, item(6), "columns.truncated", steps, n),
                        column<float>(border, item(7), "columns.log_prob", steps, n)};
  // The draws are taken before other threads can, and those that no step was made with are given back.
  const RandomStream stream = *here;
  here->draw += static_cast<std::uint64_t>(steps);
  Collect work{core, std::get<nn::Network<float>>(network.network), parameters, {outputs, log_std}, low, high, stream, steps, stop_at_end, seconds, observation, returns, columns, 0, {}};
  const auto give_back = [&] {
    if (here->draw == stream.draw + static_cast<std::uint64_t>(steps)) here->draw = stream.draw + static_cast<std::uint64_t>(work.done + (work.fault ? 1 : 0));
  };
  try {
    alone(core.lock, [&] {
      const std::lock_guard<Lock> held(network.lock);
      work.run();
    }, ReleaseGil::When::always);
  } catch (...) {
    give_back();
    throw;
  }
  give_back();
  return py::make_tuple(work.done, work.fault ? py::object(py::make_tuple(work.fault.env, work.fault.text)) : py::object(py::none()));
}

}  // namespace

PYRL_BINDINGS(collect, m) {
  def_fast<collect, "collect(pool, network, parameters, log_std, low, high, random, steps, stop_at_end, seconds, observation, returns, columns)">(m);
}
