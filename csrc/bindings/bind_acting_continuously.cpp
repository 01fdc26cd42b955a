// Acting in one call where actions are those of a bounded Box: a network's outputs, squashed or not, noise, and scaling; bit for bit what
// Network.infer, squashed_gaussian, NormalNoise and ActionScale do one after the other.
#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "bindings/acting_call.hpp"
#include "bindings/real_arg.hpp"
#include "bindings/registry.hpp"
#include "nn/squashed_gaussian.hpp"
#include "sampling/gaussian.hpp"

namespace py = pybind11;
using namespace pyrl;
using namespace pyrl::bindings;

namespace {

// What NumPy's clip does, NaN included.
template <class Real>
Real clipped(Real x) {
  return x < Real(-1) ? Real(-1) : x > Real(1) ? Real(1) : x;
}

// xi ~ N(0, 1), float32 [N, A], as sample_gaussian gives it of zeros.
void standard_normal(const RandomStream& stream, const ArrayView<float, 2>& xi) {
  const std::vector<float> zeros(static_cast<std::size_t>(xi.size() + xi.extent[1]));
  std::vector<float> log_prob(static_cast<std::size_t>(xi.extent[0]));
  sampling::GaussianArgs draw;
  draw.mean = {zeros.data(), xi.extent};
  draw.log_std = {zeros.data() + xi.size(), {1, xi.extent[1]}};
  draw.action = xi;
  draw.log_prob = {log_prob.data(), {xi.extent[0]}};
  draw.random = {stream.key, stream.draw, nullptr};
  sampling::sample_gaussian(draw);
}

// action [N, A] = tanh(mean + std xi) of the outputs and xi, as squashed_gaussian gives it.
template <class Real>
void squash(nn::SquashedGaussian<Real> call, const std::vector<float>& xi, std::vector<Real>& action) {
  const std::int64_t batch = call.output.extent[0], size = call.output.extent[1] / 2;
  const std::vector<Real> noise(xi.begin(), xi.end());
  std::vector<Real> log_prob(static_cast<std::size_t>(batch));
  call.noise = {noise.data(), {batch, size}};
  if (std::isfinite(nn::squashed_gaussian<Real>(call, {action.data(), {batch, size}}, {log_prob.data(), {batch}}))) return;
  ArrayArg output;
  output.function = "squashed_gaussian";
  output.name = "output";
  output.data = const_cast<Real*>(call.output.data);
  output.rank = 2;
  output.shape = {batch, 2 * size};
  output.dtype = dtype_of<Real>();
  throw_non_finite<Real>({&output});
}

// What a call says beside the network and the observation.
struct ContinuousArgs {
  bool squashes, noisy, is_double = false;
  std::int64_t size;  // A
  double low = 0, high = 0, std = 0;
  RandomObject* noise = nullptr;
  ArrayView<const float, 1> center, half;

  ContinuousArgs(ActingCall& call, FastArgs args) : squashes(!args[5].is_none()), noisy(!args[6].is_none()), size(squashes ? call.width / 2 : call.width) {
    const char* const function = call.function;
    PYRL_CHECK(!call.mask.present(), ArgumentError, function, ": mask is given, but continuous actions have nothing to forbid");
    if (squashes) {
      const auto [low_arg, high_arg] = pair_arg(args[5], "(low, high)");
      low = number_arg(low_arg, function, "log_std_range[0]");
      high = number_in(high_arg, low, infinity, function, "log_std_range[1]");
      PYRL_CHECK(call.width == 2 * size, ShapeError, function, ": the network has ", call.width, " outputs, expected 2 A");
    }
    if (noisy) {
      const auto [std_arg, random] = pair_arg(args[6], "(std, random)");
      std = finite_arg(std_arg, function, "noise[0]");
      noise = &random_arg(Arg(random, function, "noise[1]"), function);
    }
    PyObject* const scale = args[7].ptr();
    PYRL_CHECK(PyTuple_Check(scale) && PyTuple_GET_SIZE(scale) == 3, DTypeError, function, ": scale is a ", Py_TYPE(scale)->tp_name,
               ", expected a tuple (center, half, is_double)");
    center = call.border.input(PyTuple_GET_ITEM(scale, 0), "scale[0]").as<const float, 1>({size}, "[A]");
    half = call.border.input(PyTuple_GET_ITEM(scale, 1), "scale[1]").as<const float, 1>({size}, "[A]");
    is_double = flag_arg(PyTuple_GET_ITEM(scale, 2), function, "scale[2]");
  }

  // Writes what the Box gets for actions [N, A] in [-1, 1]; xi: of the noise.
  template <class Real>
  void write(std::vector<Real>& action, const std::vector<float>& xi, void* out) const {
    for (std::size_t i = 0; i < action.size(); ++i) {
      const auto a = static_cast<std::int64_t>(i) % size;
      Real& unit = action[i];
      if (noisy) unit = clipped<Real>(unit + static_cast<Real>(static_cast<float>(std) * xi[i]));
      const Real in_box = static_cast<Real>(center(a)) + static_cast<Real>(half(a)) * unit;
      if (is_double) static_cast<double*>(out)[i] = static_cast<double>(in_box);
      else static_cast<float*>(out)[i] = static_cast<float>(in_box);
    }
  }
};

// (network, parameters, observation, moments or None, None, log_std_range or None, noise or None, scale, random, deterministic)
//   -> action [N, A] in the Box: float64 if the scale says so, else float32
// log_std_range: (low, high), of a network that puts out mean and log_std of a Gaussian to be squashed, from which `random` draws, the mean if
// deterministic. noise: (std, its random stream). scale: (center, half, whether actions are float64), both float32 [A].
py::object act_continuously(FastArgs args) {
  const char* function = "act_continuously";
  ActingCall call(function, args);
  const ContinuousArgs given(call, args);
  RandomObject& random = random_arg(args[8], function);
  const bool deterministic = flag_arg(args[9]);
  const std::array<std::int64_t, 2> shape{call.batch, given.size};
  void* data = nullptr;
  py::object owner = empty_like_kind(Location(Kind::NumPy), given.is_double ? DType::Float64 : DType::Float32, shape, &data);
  const auto act = [&]<class Real>(Real) {
    std::vector<Real> memory;
    const auto outputs = call.outputs<Real>(memory);
    std::vector<Real> action(static_cast<std::size_t>(call.batch * given.size));
    std::vector<float> normal(given.squashes || given.noisy ? action.size() : 0);
    const ArrayView<float, 2> xi{normal.data(), shape};
    Draws draws(random, function, given.squashes && !deterministic ? 1 : 0);
    Draws noise(given.noisy ? *given.noise : random, function, given.noisy ? 1 : 0);
    {
      const ReleaseGil released;
      if (given.squashes) {
        if (!deterministic) standard_normal(draws.stream, xi);
        squash<Real>({outputs, {}, given.low, given.high}, normal, action);
      } else {
        std::copy_n(outputs.data, action.size(), action.data());
      }
      if (given.noisy) standard_normal(noise.stream, xi);
      given.write(action, normal, data);
    }
    draws.keep();
    noise.keep();
  };
  if (call.core.dtype == DType::Float32) act(float{});
  else act(double{});
  return owner;
}

}  // namespace

PYRL_BINDINGS(acting_continuously, m) {
  def_fast<act_continuously, "act_continuously(network, parameters, observation, moments, mask, log_std_range, noise, scale, random, deterministic)">(m);
}
