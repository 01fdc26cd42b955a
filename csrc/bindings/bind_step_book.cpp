// What steppers keep of their environments (pyrl.envs.stepper). Everything runs with the interpreter lock, which is its mutex.
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <vector>

#include "bindings/border.hpp"
#include "bindings/constructed.hpp"
#include "bindings/fast_call.hpp"
#include "bindings/registry.hpp"
#include "envs/step_book.hpp"

namespace py = pybind11;
using namespace pyrl;
using namespace pyrl::bindings;

namespace {

// A book and the arrays of a stepper that go with it, which it keeps.
class StepBookObject {
 public:
  StepBookObject(py::object reward, py::object truncated, std::vector<std::int64_t> limits) : book_(checked(std::move(limits))), keeps_{std::move(reward), std::move(truncated)} {
    Border border("StepBook");
    reward_ = border.output(keeps_[0], "reward").as<double, 1>({book_.size()}, "[N]").data;
    truncated_ = border.output(keeps_[1], "truncated").as<bool, 1>({book_.size()}, "[N]").data;
  }

  envs::StepBook& book() { return book_; }
  double* reward() const { return reward_; }
  bool* truncated() const { return truncated_; }

  std::size_t index(py::handle object, const char* function) const {
    const std::int64_t i = integer_arg(object, function, "index");
    PYRL_CHECK(i >= 0 && i < book_.size(), ArgumentError, function, ": index is ", i, ", expected 0 to ", book_.size() - 1);
    return static_cast<std::size_t>(i);
  }

 private:
  static std::vector<std::int64_t> checked(std::vector<std::int64_t> limits) {
    PYRL_CHECK(!limits.empty(), ArgumentError, "StepBook: limits is empty, expected one for each environment");
    for (const std::int64_t limit : limits)
      PYRL_CHECK(limit <= envs::StepBook::never, ArgumentError, "StepBook: a limit is ", limit, ", expected at most 2^62");
    return limits;
  }

  envs::StepBook book_;
  std::array<py::object, 2> keeps_;
  double* reward_;
  bool* truncated_;
};

// The usual rewards, floats (NumPy's float64 is one) and integers, into `to`; false for anything else.
bool read_rewards(py::handle list, double* to, std::int64_t count) {
  PYRL_CHECK(PyList_CheckExact(list.ptr()) && PyList_GET_SIZE(list.ptr()) >= count, DTypeError, "step: rewards is a ", Py_TYPE(list.ptr())->tp_name,
             ", expected a list of at least ", count, ", or None");
  for (std::int64_t i = 0; i < count; ++i) {
    PyObject* const item = PyList_GET_ITEM(list.ptr(), i);
    if (PyFloat_Check(item)) {
      to[i] = PyFloat_AS_DOUBLE(item);
    } else if (PyLong_CheckExact(item)) {
      to[i] = PyLong_AsDouble(item);
      if (PyErr_Occurred() != nullptr) {
        PyErr_Clear();
        return false;
      }
    } else {
      return false;
    }
  }
  return true;
}

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

// (ended) -> ended: with the environments whose time is over, which are marked as truncated, in order
py::object cut(StepBookObject& self, FastArgs args) {
  envs::StepBook& book = self.book();
  PYRL_CHECK(PyList_CheckExact(args[0].ptr()), DTypeError, "cut: ended is a ", Py_TYPE(args[0].ptr())->tp_name, ", expected a list");
  std::vector<std::uint8_t> ended(static_cast<std::size_t>(book.size()));
  for (const py::handle item : py::reinterpret_borrow<py::list>(args[0])) ended[self.index(item, "cut")] = 1;
  py::list all;
  for (std::size_t i = 0; i < ended.size(); ++i) {
    if (book.over(i)) self.truncated()[i] = true, ended[i] = 1;
    if (ended[i]) all.append(i);
  }
  book.put_off(ended);
  return all;
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

}  // namespace

PYRL_CONSTRUCTED(StepBookObject);

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
}
