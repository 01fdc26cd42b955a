// What steppers keep of their environments (pyrl.envs.stepper), as Python sees it.
#include <cstdint>
#include <utility>
#include <vector>

#include "bindings/registry.hpp"
#include "bindings/step_calls.hpp"

namespace py = pybind11;
using namespace pyrl;
using namespace pyrl::bindings;

namespace {

// (rewards) -> whether a time limit may have struck; None where a reward is not a usual or finite one, and nothing is booked then.
// None for the rewards: those that are in the array already; the clock advances even if one is not finite.
py::object step(StepBookObject& self, FastArgs args) {
  envs::StepBook& book = self.book();
  const std::int64_t count = book.size();
  if (!args[0].is_none() && !read_rewards(args[0], self.reward(), count)) return py::none();
  if (!book.book({self.reward(), static_cast<std::size_t>(count)})) {
    if (args[0].is_none()) book.tick();
    return py::none();
  }
  return py::bool_(book.due());
}

// (ended): changed in place
py::object cut(StepBookObject& self, FastArgs args) {
  PYRL_CHECK(PyList_CheckExact(args[0].ptr()), DTypeError, "cut: ended is a ", Py_TYPE(args[0].ptr())->tp_name, ", expected a list");
  auto ended = py::reinterpret_borrow<py::list>(args[0]);
  cut_into(self, ended);
  return ended;
}

// () -> (returns, ages): of unfinished episodes, a list each
py::tuple book_state(StepBookObject& self) {
  envs::StepBook& book = self.book();
  py::list ages;
  for (std::size_t i = 0; i < book.returns().size(); ++i) ages.append(book.age(i));
  return py::make_tuple(std::vector<double>(book.returns().begin(), book.returns().end()), ages);
}

void load_book(StepBookObject& self, std::vector<double> returns, const std::vector<std::int64_t>& ages) {
  const auto count = static_cast<std::size_t>(self.book().size());
  PYRL_CHECK(returns.size() == count && ages.size() == count, ShapeError, "load: ", returns.size(), " returns and ", ages.size(), " ages, expected ", count, " of each");
  self.book().load(std::move(returns), ages);
}

// (index, next_start) -> (return, length)
py::object finish(StepBookObject& self, FastArgs args) {
  const std::size_t i = self.index(args[0], "finish");
  const std::int64_t next_start = integer_arg(args[1], "finish", "next_start"), length = self.book().age(i);
  return py::make_tuple(self.book().finish(i, next_start), length);
}

// (steps, actions, buffer, ended) -> see there
py::object run(StepCalls& self, FastArgs args) {
  for (const int i : {0, 1, 3})
    PYRL_CHECK(PyList_CheckExact(args[static_cast<std::size_t>(i)].ptr()), DTypeError, "run: ", args[static_cast<std::size_t>(i)].name, " is a ",
               Py_TYPE(args[static_cast<std::size_t>(i)].ptr())->tp_name, ", expected a list");
  auto ended = py::reinterpret_borrow<py::list>(args[3]);
  return py::int_(self.run(py::reinterpret_borrow<py::list>(args[0]), py::reinterpret_borrow<py::list>(args[1]), static_cast<std::size_t>(integer_arg(args[2])), ended));
}

}  // namespace

PYRL_BINDINGS(step_book, m) {
  py::class_<StepBookObject> book(m, "StepBook", "Returns, clocks and time limits of a stepper's environments.");
  book.def(py::init<py::object, py::object, std::vector<std::int64_t>>(), py::arg("reward"), py::arg("truncated"), py::arg("limits"))
      .def("reset", [](StepBookObject& self) { self.book().reset(); })
      .def("state", &book_state)
      .def("load", &load_book, py::arg("returns"), py::arg("ages"))
      .def_property_readonly("clock", [](StepBookObject& self) { return self.book().clock(); })
      .def("age", [](StepBookObject& self, py::int_ index) { return self.book().age(self.index(index, "age")); }, py::arg("index"));
  def_fast_method<StepBookObject, step, "step(rewards)">(book);
  def_fast_method<StepBookObject, cut, "cut(ended)">(book);
  def_fast_method<StepBookObject, finish, "finish(index, next_start)">(book);
  py::class_<StepCalls> calls(m, "StepCalls", "One step of environments that are functions.");
  calls.def(py::init<py::object, py::list, py::list, py::list, py::object, std::vector<py::object>>(), py::arg("book"), py::arg("observations"), py::arg("rewards"),
            py::arg("infos"), py::arg("terminated"), py::arg("buffers"))
      .def_property_readonly("at", &StepCalls::at);
  def_fast_method<StepCalls, run, "run(steps, actions, buffer, ended)">(calls);
}
