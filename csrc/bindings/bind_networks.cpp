// Networks over arenas. The Python face is pyrl.ops.Network.
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/array_arg.hpp"
#include "bindings/border.hpp"
#include "bindings/fast_call.hpp"
#include "bindings/network_core.hpp"
#include "bindings/registry.hpp"
#include "nn/product_bfloat16.hpp"

namespace py = pybind11;
using namespace pyrl;
using namespace pyrl::bindings;
using pyrl::nn::Activation;
using pyrl::nn::Layer;

namespace pyrl::bindings {

NetworkCore::NetworkCore(std::vector<Layer> layers, DType type, bool bfloat16)
    : network(nn::Network<float>(layers, bfloat16)), dtype(type), in(layers.front().in), out(layers.back().out) {
  for (const Layer& layer : layers) {
    arena_size = std::max({arena_size, layer.weight + layer.in * layer.out, layer.bias + layer.out, layer.gain + layer.out, layer.shift + layer.out});
  }
  if (dtype == DType::Float64) network.emplace<nn::Network<double>>(std::move(layers));
}

void* NetworkCore::arena(const ArrayArg& arg) const {
  if (!arg.given()) return nullptr;
  arg.require_cpu();
  arg.require_dtype(dtype);
  arg.require_rank(1, "[size]");
  arg.require_contiguous();
  PYRL_CHECK(arg.shape[0] >= arena_size, ShapeError, arg.function, ": ", arg.name, " has shape ", arg.shape_text(), ", expected at least [", arena_size, "]");
  return arg.data;
}

}  // namespace pyrl::bindings

namespace {

// (in, out, weight, bias, gain, shift, activation)
using LayerSpec = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::string>;

Activation activation_of(const std::string& name) {
  const char* names[] = {"identity", "relu", "tanh", "silu", "gelu"};
  for (int i = 0; i < 5; ++i)
    if (name == names[i]) return static_cast<Activation>(i);
  throw ArgumentError(concat("Network: activation is '", name, "', expected one of identity, relu, tanh, silu, gelu"));
}

NetworkCore* make(const std::vector<LayerSpec>& specs, const std::string& dtype, const std::string& precision) {
  PYRL_CHECK(!specs.empty(), ArgumentError, "Network: layers is empty, expected at least one");
  PYRL_CHECK(dtype == "float32" || dtype == "float64", DTypeError, "Network: dtype is ", dtype, ", expected float32 or float64");
  PYRL_CHECK(precision == "float32" || precision == "bfloat16", ArgumentError, "Network: precision is '", precision, "', expected float32 or bfloat16");
  std::vector<Layer> layers;
  for (const auto& [in, out, weight, bias, gain, shift, activation] : specs) {
    constexpr std::int64_t most = std::int64_t{1} << 30;  // so that no size overflows
    PYRL_CHECK(in >= 1 && out >= 1 && weight >= 0 && in < most && out < most && weight < most * most, ArgumentError, "Network: layer ", layers.size(), " is ",
               in, " -> ", out, " at ", weight, ", expected widths of at least 1 and a place in the arena");
    for (const std::int64_t place : {bias, gain, shift}) {
      PYRL_CHECK(place >= -1 && place < most * most, ArgumentError, "Network: layer ", layers.size(), " has bias, gain and shift at ", bias, ", ", gain, " and ",
                 shift, ", expected places in the arena or -1 for none");
    }
    PYRL_CHECK(layers.empty() || layers.back().out == in, ShapeError, "Network: layer ", layers.size(), " takes ", in, " inputs, expected ",
               layers.empty() ? in : layers.back().out, " (the outputs of the one before)");
    PYRL_CHECK((gain < 0) == (shift < 0), ArgumentError, "Network: layer ", layers.size(), " has half a norm, expected gain and shift or neither");
    layers.push_back({in, out, weight, bias, gain, shift, activation_of(activation)});
  }
  // Not a unique_ptr: where pybind11 then runs out of memory, it would free the object twice.
  return new NetworkCore(std::move(layers), dtype == "float64" ? DType::Float64 : DType::Float32, precision == "bfloat16");
}

// One or two matrices [B, width] side by side.
struct InputsArg {
  ArrayArg a, b;
  std::int64_t batch = 0;

  InputsArg(Border& border, const NetworkCore& core, py::handle first, py::handle second) : a(read(core, border.input(first, "x"))), batch(a.shape[0]) {
    const char* function = border.function;
    const bool two = !second.is_none();
    if (two) b = read(core, border.input(second, "x[1]"));
    const std::int64_t width = a.shape[1] + (two ? b.shape[1] : 0);
    PYRL_CHECK(width == core.in, ShapeError, function, ": x has ", width, " columns, expected ", core.in, " (the network's inputs)");
    PYRL_CHECK(!two || b.shape[0] == batch, ShapeError, function, ": x[1] has shape ", b.shape_text(), ", expected [B, ...] with B = ", batch, " (from x[0])");
  }
  template <class Real>
  nn::Inputs<Real> as() const {
    return {static_cast<const Real*>(a.data), a.shape[1], static_cast<const Real*>(b.data), b.rank == 0 ? 0 : b.shape[1]};
  }

 private:
  static const ArrayArg& read(const NetworkCore& core, const ArrayArg& arg) {
    arg.require_cpu();
    arg.require_dtype(core.dtype);
    arg.require_rank(2, "[B, D]");
    arg.require_contiguous();
    return arg;
  }
};

// A matrix, or None. Read with the interpreter lock, checked with the network's, which knows the batch.
void* matrix(const NetworkCore& core, const ArrayArg& arg, std::int64_t batch, std::int64_t width) {
  if (!arg.given()) return nullptr;
  arg.require_cpu();
  arg.require_dtype(core.dtype);
  arg.require_shape(std::array<std::int64_t, 2>{batch, width}, "[B, width]");
  arg.require_contiguous();
  return arg.data;
}

// (parameters, x, x[1] or None, out or None) -> y [B, out]
template <bool keep>
py::object run(NetworkCore& core, FastArgs args) {
  const char* function = keep ? "forward" : "infer";
  Border border(function);
  const void* const parameters = core.arena(border.input(args[0]));
  const InputsArg x(border, core, args[1], args[2]);
  py::object y;
  void* const data = border.result(y, args[3], x.a.kind, core.dtype, std::array<std::int64_t, 2>{x.batch, core.out}, "out", "[B, out]");
  core.visit([&]<class Real>(nn::Network<Real>& network) {
    const auto* arena = static_cast<const Real*>(parameters);
    alone(core.lock, [&] {
      if constexpr (keep) {
        network.forward(arena, x.as<Real>(), x.batch, static_cast<Real*>(data));
      } else {
        network.infer(arena, x.as<Real>(), x.batch, static_cast<Real*>(data));
      }
    });
  });
  return y;
}

// (parameters, gradients or None, dy, dx or None, dx[1] or None)
py::object backward(NetworkCore& core, FastArgs args) {
  const char* function = "backward";
  Border border(function);
  const auto output = [&](py::handle object, const char* name) { return object.is_none() ? OutputArg{} : border.output(object, name); };
  const void* const parameters = core.arena(border.input(args[0]));
  void* const gradients = core.arena(output(args[1], "gradients"));
  PYRL_CHECK(!args[2].is_none(), DTypeError, function, ": dy is None, expected an array [B, out]");
  const ArrayArg dy = border.input(args[2]);
  const OutputArg dx = output(args[3], "dx"), dx1 = output(args[4], "dx[1]");
  core.visit([&]<class Real>(nn::Network<Real>& network) {
    alone(core.lock, [&] {
      const std::int64_t batch = network.batch(), width = network.a_width();
      PYRL_CHECK(batch >= 0, ArgumentError, function, ": there was no forward, expected one before it");
      const auto* const from = static_cast<const Real*>(matrix(core, dy, batch, core.out));
      auto* const to = static_cast<Real*>(matrix(core, dx, batch, width));
      auto* const to1 = static_cast<Real*>(matrix(core, dx1, batch, core.in - width));
      network.backward(static_cast<const Real*>(parameters), static_cast<Real*>(gradients), from, to, to1);
    });
  });
  return py::none();
}

}  // namespace

PYRL_BINDINGS(networks, m) {
  py::class_<NetworkCore> core(m, "NetworkCore", "A multilayer perceptron over an arena.");
  core.def(py::init(&make), py::arg("layers"), py::arg("dtype"), py::arg("precision"))
      .def_readonly("num_inputs", &NetworkCore::in)
      .def_readonly("num_outputs", &NetworkCore::out);
  m.def("bfloat16_products", &nn::bfloat16::available, "Whether this processor multiplies matrices in bfloat16.");
  def_fast_method<NetworkCore, run<true>, "forward(parameters, x, x1, out)">(core);
  def_fast_method<NetworkCore, run<false>, "infer(parameters, x, x1, out)">(core);
  def_fast_method<NetworkCore, backward, "backward(parameters, gradients, dy, dx, dx1)">(core);
}
