// A network as Python holds it, in float32 or float64.
#pragma once

#include <pybind11/pybind11.h>

#include <utility>
#include <variant>
#include <vector>

#include "bindings/array_arg.hpp"
#include "bindings/constructed.hpp"
#include "core/lock.hpp"
#include "nn/network.hpp"

namespace pyrl::bindings {

struct NetworkCore {
  NetworkCore(std::vector<nn::Layer> layers, DType type, bool bfloat16);

  // Calls body(network) with the Network<float> or Network<double>.
  template <class Body>
  decltype(auto) visit(const Body& body) {
    return std::visit(body, network);
  }
  // Where an arena is: checked for dtype, and to be long enough for every layer. Null if it is not given.
  void* arena(const ArrayArg& arg) const;

  Lock lock;  // of the network, which keeps what `backward` needs
  std::variant<nn::Network<float>, nn::Network<double>> network;
  DType dtype;
  std::int64_t in = 0, out = 0;
  std::int64_t arena_size = 0;  // the least
};

}  // namespace pyrl::bindings

PYRL_CONSTRUCTED(::pyrl::bindings::NetworkCore);
