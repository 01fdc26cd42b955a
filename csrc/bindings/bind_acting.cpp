// Acting in one call: observations are normalised, go through a network, and become actions. Each does what its parts do one by one, bit
// for bit: RunningMoments.normalize, Network.infer, and a sampler.
#include <vector>

#include "bindings/array_arg.hpp"
#include "bindings/border.hpp"
#include "bindings/fast_call.hpp"
#include "bindings/network_core.hpp"
#include "bindings/nvec_arg.hpp"
#include "bindings/random_arg.hpp"
#include "bindings/registry.hpp"
#include "sampling/categorical.hpp"
#include "sampling/epsilon_greedy.hpp"
#include "sampling/gaussian.hpp"
#include "sampling/running_moments.hpp"

namespace py = pybind11;
using namespace pyrl;
using namespace pyrl::bindings;

namespace {

// The outputs of a network for a batch of observations.
struct ActingCall {
  Border border;
  const char* function;
  NetworkCore& core;
  std::int64_t batch = 0;
  ArrayView<const bool, 2> mask;

  ActingCall(const char* name, FastArgs args) : border(name), function(name), core(network_of(args[0], name)), parameters_(core.arena(border.input(args[1]))) {
    observation_ = border.input(args[2]);
    observation_.require_cpu();
    PYRL_CHECK(observation_.kind == Kind::NumPy, DTypeError, function, ": observation is a torch tensor, expected a NumPy array");
    observation_.require_rank(2, "[N, D]");
    observation_.require_contiguous();
    batch = observation_.shape[0];
    PYRL_CHECK(observation_.shape[1] == core.in, ShapeError, function, ": observation has shape ", observation_.shape_text(), ", expected [N, ", core.in,
               "] (the network's inputs)");
    PYRL_CHECK(batch <= (std::int64_t{1} << 32), ShapeError, function, ": observation has shape ", observation_.shape_text(), ", expected at most 2^32 rows");
    if (args[3].is_none()) {
      observation_.require_dtype(core.dtype);
    } else {
      read_moments(args[3]);
    }
    if (!args[4].is_none()) mask = border.input(args[4]).as<const bool, 2>({batch, core.out}, "[N, M]");
  }

  // [N, out], in memory of this call.
  template <class Real>
  ArrayView<const Real, 2> outputs(nn::Network<Real>& network, std::vector<Real>& memory) {
    memory.resize(static_cast<std::size_t>(batch * core.out));
    std::vector<float> normalized;
    const auto* x = static_cast<const Real*>(observation_.data);
    if constexpr (std::is_same_v<Real, float>) {
      if (moments_.count != nullptr) x = observation_.dtype == DType::Float32 ? normalize<float>(normalized) : normalize<double>(normalized);
    }
    alone(core.lock, [&] { network.infer(static_cast<const Real*>(parameters_), {x, core.in}, batch, memory.data()); });
    return {memory.data(), {batch, core.out}};
  }

 private:
  static NetworkCore& network_of(py::handle object, const char* name) {
    PYRL_CHECK(py::isinstance<NetworkCore>(object), DTypeError, name, ": network is a ", Py_TYPE(object.ptr())->tp_name, ", expected a NetworkCore");
    return object.cast<NetworkCore&>();
  }

  // (count, mean, m2, clip or None, epsilon)
  void read_moments(py::handle object) {
    PYRL_CHECK(PyTuple_Check(object.ptr()) && PyTuple_GET_SIZE(object.ptr()) == 5, DTypeError, function, ": moments is a ", Py_TYPE(object.ptr())->tp_name,
               ", expected None or a tuple (count, mean, m2, clip, epsilon)");
    PYRL_CHECK(observation_.dtype == DType::Float32 || observation_.dtype == DType::Float64, DTypeError, function, ": observation has dtype ",
               observation_.dtype_text(), ", expected float32 or float64");
    PYRL_CHECK(core.dtype == DType::Float32, DTypeError, function, ": the network is of float64, expected float32: what is normalised");
    const auto item = [&](Py_ssize_t i) { return py::handle(PyTuple_GET_ITEM(object.ptr(), i)); };
    const auto doubles = [&](Py_ssize_t i, const char* name) {
      return const_cast<double*>(border.input(item(i), name).as<const double, 1>({core.in}, "[D]").data);
    };
    moments_.count = const_cast<std::int64_t*>(border.input(item(0), "moments.count").as<const std::int64_t, 0>("[]").data);
    moments_.mean = {doubles(1, "moments.mean"), {core.in}};
    moments_.m2 = {doubles(2, "moments.m2"), {core.in}};
    clip_ = item(3).is_none() ? infinity : number_in(item(3), 0, infinity, function, "moments.clip");
    epsilon_ = number_in(item(4), 0, infinity, function, "moments.epsilon");
  }

  template <class T>
  const float* normalize(std::vector<float>& memory) {
    memory.resize(static_cast<std::size_t>(batch * core.in));
    const sampling::NormalizeArgs<T> call{{static_cast<const T*>(observation_.data), {batch, core.in}}, {memory.data(), {batch, core.in}}, moments_, clip_, epsilon_};
    alone(lock_of(moments_.mean.data), [&] { sampling::normalize(call); });
    return memory.data();
  }

  const void* parameters_;
  ArrayArg observation_;
  sampling::Moments moments_;
  double clip_ = infinity, epsilon_ = 0;
};

// body(stream) with `count` draws of it, which are taken before the interpreter lock may be released. A call that fails gives them back, unless
// another thread has drawn since.
template <class Body>
void with_draws(RandomObject& random, const char* function, std::uint64_t count, const Body& body) {
  RandomStream* const here = random.here();
  PYRL_CHECK(here != nullptr, DeviceError, function, ": random is on a GPU, expected the CPU");
  const RandomStream stream = *here;
  here->draw += count;
  try {
    const ReleaseGil released;
    body(stream);
  } catch (...) {
    if (here->draw == stream.draw + count) here->draw = stream.draw;
    throw;
  }
}

bool all_two(py::handle tuple) {
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple.ptr()); ++i)
    if (PyObject* const item = PyTuple_GET_ITEM(tuple.ptr(), i); !PyLong_CheckExact(item) || PyLong_AsLong(item) != 2) return false;
  return true;
}

std::vector<std::int64_t> choices_arg(py::handle object, const char* function, std::int64_t batch, std::int64_t width) {
  ArrayArg output;
  output.function = function;
  output.name = "the network's output";
  output.rank = 2;
  output.shape = {batch, width};
  return nvec_arg(object, output);
}

// (network, parameters, observation, moments or None, mask or None, nvec or None, log_std or None, random, deterministic)
//   -> (action int64 [N] or [N, M], or float32 [N, A]; log_prob float32 [N])
// nvec: the choices of a Discrete action, or those of several components in a tuple. A network of M outputs for M components of two gives the
// logit of each 1.
py::object act(FastArgs args) {
  const char* function = "act";
  ActingCall call(function, args);
  NetworkCore& core = call.core;
  RandomObject& random = random_arg(args[7], function);
  const bool deterministic = flag_arg(args[8]);
  PYRL_CHECK(args[5].is_none() != args[6].is_none(), ArgumentError, function, ": expected one of nvec (of discrete actions) and log_std (of a Gaussian)");
  PYRL_CHECK(core.dtype == DType::Float32, DTypeError, function, ": the network is of float64, expected float32");
  const std::int64_t batch = call.batch, width = core.out;
  const Location location(Kind::NumPy);
  py::object action, owner;
  const auto log_prob = allocate<float, 1>(owner, location, {batch});
  std::vector<float> memory;
  const auto outputs = [&] { return call.outputs(std::get<nn::Network<float>>(core.network), memory); };
  if (args[5].is_none()) {
    PYRL_CHECK(!call.mask.present(), ArgumentError, function, ": mask is given, but a Gaussian has nothing to forbid");
    sampling::GaussianArgs draw;
    draw.log_std = {call.border.input(args[6]).as<const float, 1>({width}, "[A]").data, {1, width}};
    draw.action = allocate<float, 2>(action, location, {batch, width});
    draw.log_prob = log_prob;
    draw.deterministic = deterministic;
    draw.mean = outputs();
    with_draws(random, function, deterministic ? 0 : 1, [&](const RandomStream& stream) {
      draw.random = {stream.key, stream.draw, nullptr};
      sampling::sample_gaussian(draw);
    });
    return py::make_tuple(std::move(action), std::move(owner));
  }
  sampling::CategoricalArgs draw;
  const bool discrete = PyLong_Check(args[5].ptr()) != 0;
  const bool binary = PyTuple_Check(args[5].ptr()) && PyTuple_GET_SIZE(args[5].ptr()) == width && all_two(args[5]);
  const std::vector<std::int64_t> nvec = discrete ? std::vector{integer_arg(args[5])} : choices_arg(args[5], function, batch, binary ? 2 * width : width);
  const auto components = static_cast<std::int64_t>(nvec.size());
  PYRL_CHECK(!discrete || nvec[0] == width, ShapeError, function, ": nvec is ", nvec[0], ", expected ", width, " (the network's outputs)");
  std::int64_t* const chosen = discrete ? allocate<std::int64_t, 1>(action, location, {batch}).data : allocate<std::int64_t, 2>(action, location, {batch, components}).data;
  draw.nvec = {nvec.data(), {components}};
  draw.action = {chosen, {batch, components}};
  draw.log_prob = log_prob;
  draw.deterministic = deterministic;
  const auto logits = outputs();
  if (call.mask.present())
    for (std::int64_t i = 0; i < logits.size(); ++i)
      if (!call.mask.data[i]) memory[static_cast<std::size_t>(i)] = static_cast<float>(sampling::forbidden_value);
  std::vector<float> pairs;
  if (binary) {
    pairs.resize(2 * memory.size());
    for (std::size_t i = 0; i < memory.size(); ++i) pairs[2 * i + 1] = memory[i];
  }
  draw.logits = binary ? ArrayView<const float, 2>{pairs.data(), {batch, 2 * width}} : logits;
  with_draws(random, function, deterministic ? 0 : 1, [&](const RandomStream& stream) {
    draw.random = {stream.key, stream.draw, nullptr};
    sampling::sample_categorical(draw);
  });
  return py::make_tuple(std::move(action), std::move(owner));
}

// (network, parameters, observation, moments or None, mask or None, epsilon or None, random) -> action int64 [N]
py::object act_greedily(FastArgs args) {
  const char* function = "act_greedily";
  ActingCall call(function, args);
  const bool explores = !args[5].is_none();
  const double epsilon = explores ? number_in(args[5], 0, 1) : -1.0;
  RandomObject& random = random_arg(args[6], function);
  py::object action;
  const auto chosen = allocate<std::int64_t, 1>(action, Location(Kind::NumPy), {call.batch});
  call.core.visit([&]<class Real>(nn::Network<Real>& network) {
    std::vector<Real> memory;
    sampling::EpsilonGreedyArgs<Real> greedy;
    greedy.value = call.outputs(network, memory);
    greedy.mask = call.mask;
    greedy.action = chosen;
    greedy.epsilon = epsilon;
    with_draws(random, function, explores ? 2 : 0, [&](const RandomStream& stream) {
      greedy.random = stream;
      sampling::epsilon_greedy(greedy);
    });
  });
  return action;
}

}  // namespace

PYRL_BINDINGS(acting, m) {
  def_fast<act, "act(network, parameters, observation, moments, mask, nvec, log_std, random, deterministic)">(m);
  def_fast<act_greedily, "act_greedily(network, parameters, observation, moments, mask, epsilon, random)">(m);
}
