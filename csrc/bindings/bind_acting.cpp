// Acting in one call: observations are normalised, go through a network, and become actions. Each does what its parts do one by one, bit
// for bit: RunningMoments.normalize, Network.infer, dueling, and a sampler. Continuous actions in a Box: bind_acting_continuously.
#include <utility>
#include <vector>

#include "bindings/acting_call.hpp"
#include "bindings/nvec_arg.hpp"
#include "bindings/plain_array.hpp"
#include "bindings/registry.hpp"
#include "sampling/categorical.hpp"
#include "sampling/epsilon_greedy.hpp"
#include "sampling/gaussian.hpp"

namespace py = pybind11;
using namespace pyrl;
using namespace pyrl::bindings;

namespace {

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
  const std::int64_t batch = call.batch, width = call.width;
  const Location location(Kind::NumPy);
  py::object action, owner;
  const auto log_prob = allocate<float, 1>(owner, location, {batch});
  std::vector<float> memory;
  const auto outputs = [&] { return call.outputs<float>(memory); };
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

// (network, parameters, observation, moments or None, mask or None, epsilon, float64 [N] or None, random, tells) -> action int64 [N], or
// (action, value of the action [N], largest value [N]) if `tells`
py::object act_greedily(FastArgs args) {
  const char* function = "act_greedily";
  ActingCall call(function, args);
  const bool explores = !args[5].is_none(), one = explores && PyFloat_Check(args[5].ptr());
  const double epsilon = one ? number_in(args[5], 0, 1) : -1.0;
  ArrayView<const double, 1> epsilons;
  if (explores && !one) epsilons = call.border.input(args[5]).as<const double, 1>({call.batch}, "[N]");
  RandomObject& random = random_arg(args[6], function);
  const bool tells = flag_arg(args[7]);
  py::object action, taken, largest;
  const Location location(Kind::NumPy);
  const auto chosen = allocate<std::int64_t, 1>(action, location, {call.batch});
  const auto act = [&]<class Real>(Real) {
    std::vector<Real> memory;
    sampling::EpsilonGreedyArgs<Real> greedy;
    if (tells) {
      greedy.taken = allocate<Real, 1>(taken, location, {call.batch});
      greedy.largest = allocate<Real, 1>(largest, location, {call.batch});
    }
    greedy.value = call.outputs<Real>(memory);
    greedy.mask = call.mask;
    greedy.action = chosen;
    greedy.epsilon = epsilon;
    greedy.epsilons = epsilons;
    with_draws(random, function, explores ? 2 : 0, [&](const RandomStream& stream) {
      greedy.random = stream;
      sampling::epsilon_greedy(greedy);
    });
  };
  if (call.core.dtype == DType::Float32) act(float{});
  else act(double{});
  if (!tells) return action;
  return py::make_tuple(std::move(action), std::move(taken), std::move(largest));
}

// (observation, like) -> whether it is a NumPy array [N, ...] with the dtype and the row's shape of `like`, contiguous, of finite numbers. No says
// nothing: what is not plain may be right too.
py::object is_plain(FastArgs args) {
  const ArrayArg like = read_array(args[1], "is_plain", args[1].name);
  PYRL_CHECK(like.kind == Kind::NumPy && like.rank >= 1 && (like.dtype == DType::Float32 || like.dtype == DType::Float64), DTypeError, "is_plain: like is of dtype ",
             like.dtype_text(), " and rank ", like.rank, ", expected a NumPy array [N, ...] of floats");
  PyObject* const observation = args[0].ptr();
  if (!is_plain_like(observation, args[1].ptr(), like.rank, like.rank - 1)) return py::bool_(false);
  const auto* array = py::detail::array_proxy(observation);
  std::int64_t count = 1;
  for (int axis = 0; axis < array->nd; ++axis) count *= array->dimensions[axis];
  return py::bool_(all_finite(array->data, like.dtype, count));
}

}  // namespace

PYRL_BINDINGS(acting, m) {
  def_fast<is_plain, "is_plain(observation, like)">(m);
  def_fast<act, "act(network, parameters, observation, moments, mask, nvec, log_std, random, deterministic)">(m);
  def_fast<act_greedily, "act_greedily(network, parameters, observation, moments, mask, epsilon, random, tells)">(m);
}
