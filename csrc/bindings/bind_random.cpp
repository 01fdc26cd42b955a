// The random stream: 24 bytes of state, shared by every sampler.
#include <pybind11/pybind11.h>

#include "bindings/random_arg.hpp"
#include "bindings/registry.hpp"

namespace py = pybind11;
using pyrl::RandomStream;

PYRL_BINDINGS(random, m) {
  py::class_<RandomStream>(m, "RandomStream", "A Philox 4x32-10 stream: a 64-bit key and a count of draws.")
      .def(py::init([](std::uint64_t key, std::uint64_t draw) { return RandomStream{key, draw}; }), py::arg("key"), py::arg("draw") = 0)
      .def_readonly("key", &RandomStream::key)
      .def_readonly("draw", &RandomStream::draw)
      .def_property(
          "state", [](const RandomStream& self) { return py::make_tuple(self.key, std::uint64_t{0}, self.draw); },
          [](RandomStream& self, const py::tuple& state) {
            PYRL_CHECK(state.size() == 3, ArgumentError, "RandomStream: state has ", state.size(), " words, expected (key, 0, draw)");
            self = {state[0].cast<std::uint64_t>(), state[2].cast<std::uint64_t>()};
          },
          "(key, counter low, counter high): three 64-bit words.")
      .def("words", [](RandomStream& self, std::uint32_t element, std::uint32_t block) {
            const auto words = pyrl::philox(self.key, self.draw, element, block);
            return py::make_tuple(words[0], words[1], words[2], words[3]);
          }, py::arg("element"), py::arg("block"), "The four words of one block of the next draw, without drawing (for tests).");
}
