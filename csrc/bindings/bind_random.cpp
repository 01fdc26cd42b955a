// The random stream: 24 bytes of state, shared by every sampler.
#include <pybind11/stl.h>

#include "bindings/random_arg.hpp"
#include "bindings/registry.hpp"

namespace py = pybind11;
using pyrl::RandomStream;
using pyrl::bindings::RandomObject;

PYRL_BINDINGS(random, m) {
  py::class_<RandomObject>(m, "RandomStream", "A Philox 4x32-10 stream: a 64-bit key and a count of draws.")
      .def(py::init<std::uint64_t, std::uint64_t, py::object>(), py::arg("key"), py::arg("draw") = 0, py::arg("memory") = py::none())
      .def_property_readonly("key", [](RandomObject& self) { return self.state().key; })
      .def_property_readonly("draw", [](RandomObject& self) { return self.state().draw; })
      .def_property_readonly("memory", &RandomObject::memory, "The tensor in which key and draw lie, or None.")
      .def_property(
          "state",
          [](RandomObject& self) {
            const RandomStream state = self.state();
            return py::make_tuple(state.key, std::uint64_t{0}, state.draw);
          },
          [](RandomObject& self, const py::tuple& state) {
            PYRL_CHECK(state.size() == 3, ArgumentError, "RandomStream: state has ", state.size(), " words, expected (key, 0, draw)");
            self.set_state({state[0].cast<std::uint64_t>(), state[2].cast<std::uint64_t>()});
          },
          "(key, counter low, counter high): three 64-bit words.")
      .def("words", [](RandomObject& self, std::uint32_t element, std::uint32_t block) {
            const RandomStream state = self.state();
            const auto words = pyrl::philox(state.key, state.draw, element, block);
            return py::make_tuple(words[0], words[1], words[2], words[3]);
          }, py::arg("element"), py::arg("block"), "The four words of one block of the next draw, without drawing (for tests).");
}
