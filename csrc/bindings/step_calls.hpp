// What a stepper keeps of its environments, and calling their step functions. Everything runs with the interpreter lock, which is its mutex.
#pragma once

#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "bindings/border.hpp"
#include "bindings/constructed.hpp"
#include "bindings/fast_call.hpp"
#include "bindings/plain_array.hpp"
#include "envs/step_book.hpp"

namespace pyrl::bindings {

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
inline bool read_rewards(py::handle list, double* to, std::int64_t count) {
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

// With the environments whose time is over, which are marked as truncated, in order.
inline void cut_into(StepBookObject& self, py::list& list) {
  envs::StepBook& book = self.book();
  std::vector<std::uint8_t> ended(static_cast<std::size_t>(book.size()));
  for (const py::handle item : list) ended[self.index(item, "cut")] = 1;
  py::list all;
  for (std::size_t i = 0; i < ended.size(); ++i) {
    if (book.over(i)) self.truncated()[i] = true, ended[i] = 1;
    if (ended[i]) all.append(i);
  }
  if (PyList_SetSlice(list.ptr(), 0, PyList_GET_SIZE(list.ptr()), all.ptr()) != 0) throw py::error_already_set();
  book.put_off(ended);
}

// Calls the environments' step functions one after the other and reads what they return. What is as usual is taken here; from the first
// result on that is not, the stepper goes on in Python, which reads anything and says what is wrong.
class StepCalls {
 public:
  // observations, rewards, infos: lists of the stepper, of what each environment returned. buffers: arrays [N, ...], one of which gets the
  // observations at each step; none where an observation is not one array, or not of numbers that a look tells to be right.
  StepCalls(py::object book, py::list observations, py::list rewards, py::list infos, py::object terminated, std::vector<py::object> buffers)
      : keeps_{std::move(book), std::move(terminated)},
        book_(&keeps_[0].cast<StepBookObject&>()),
        count_(book_->book().size()),
        observations_(std::move(observations)),
        rewards_(std::move(rewards)),
        infos_(std::move(infos)) {
    for (const py::list& list : {observations_, rewards_, infos_})
      PYRL_CHECK(static_cast<std::int64_t>(list.size()) >= count_, ShapeError, "StepCalls: a list has ", list.size(), " entries, expected at least ", count_);
    Border border("StepCalls");
    terminated_ = border.output(keeps_[1], "terminated").as<bool, 1>({count_}, "[N]").data;
    for (const py::object& buffer : buffers) {
      const OutputArg arg = border.output(buffer, "buffer");
      arg.require_cpu();
      arg.require_contiguous();
      arg.require_writable();
      PYRL_CHECK(arg.rank >= 2 && arg.shape[0] == count_ && arg.dtype != DType::Other, ShapeError, "StepCalls: buffer has shape ", arg.shape_text(), " and dtype ",
                 arg.dtype_text(), ", expected [N, ...] = [", count_, ", ...] of numbers");
      PYRL_CHECK(arg.kind == Kind::NumPy, DTypeError, "StepCalls: buffer is a torch tensor, expected a NumPy array");
      buffers_.push_back({buffer, static_cast<std::byte*>(arg.data), arg.dtype, arg.rank, arg.bytes() / count_});
    }
  }

  // -1: every result was as usual; the observations are in the buffer, the rewards are booked, and `ended` has the environments whose episodes
  // ended, those of the time limit among them. Else the first environment whose result is for the caller to read, from the list of
  // observations; N where all were called, but observations or rewards are for the caller.
  std::int64_t run(const py::list& steps, const py::list& actions, std::size_t buffer, py::list& ended) {
    PYRL_CHECK(static_cast<std::int64_t>(steps.size()) == count_ && static_cast<std::int64_t>(actions.size()) == count_, ShapeError, "run: ", steps.size(),
               " steps and ", actions.size(), " actions, expected ", count_, " of each");
    bool usual = buffer < buffers_.size();
    for (std::int64_t i = 0; i < count_; ++i) {  // not by `at_`, which a call from within a call would change
      at_ = i;
      const auto result = called(item(steps, i), item(actions, i));
      PyObject* const tuple = result.ptr();
      if (!PyTuple_CheckExact(tuple) || PyTuple_GET_SIZE(tuple) != 5 || !PyBool_Check(PyTuple_GET_ITEM(tuple, 2)) || !PyBool_Check(PyTuple_GET_ITEM(tuple, 3))) {
        put(observations_, i, tuple);
        at_ = count_;
        return i;
      }
      put(observations_, i, PyTuple_GET_ITEM(tuple, 0));
      put(rewards_, i, PyTuple_GET_ITEM(tuple, 1));
      put(infos_, i, PyTuple_GET_ITEM(tuple, 4));
      const bool over = PyTuple_GET_ITEM(tuple, 2) == Py_True, cut = PyTuple_GET_ITEM(tuple, 3) == Py_True;
      if (over || cut) {
        terminated_[i] = over;
        book_->truncated()[i] = cut;
        ended.append(i);
      }
      usual = usual && write(buffers_[buffer], i, PyTuple_GET_ITEM(tuple, 0));
    }
    at_ = count_;
    envs::StepBook& book = book_->book();
    if (!usual || !read_rewards(rewards_, book_->reward(), count_) || !book.book({book_->reward(), static_cast<std::size_t>(count_)})) return count_;
    if (book.due()) cut_into(*book_, ended);
    return -1;
  }

  struct Buffer {
    py::object array;
    std::byte* data;
    DType dtype;
    int rank;
    std::int64_t bytes;  // of one row
  };

  // The environment under call; -1 after `begin`, N after `run`.
  std::int64_t at() const { return at_; }
  void begin() { at_ = -1; }
  std::int64_t count() const { return count_; }
  const std::vector<Buffer>& buffers() const { return buffers_; }
  const double* reward() const { return book_->reward(); }

 private:
  // Checked, as the environment before may have done anything.
  static py::object item(const py::list& list, std::int64_t i) {
    PyObject* const found = PyList_GetItem(list.ptr(), i);
    if (found == nullptr) throw py::error_already_set();
    return py::reinterpret_borrow<py::object>(found);
  }
  static py::object called(const py::object& function, const py::object& argument) {
    PyObject* const result = PyObject_CallOneArg(function.ptr(), argument.ptr());
    if (result == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(result);
  }
  static void put(const py::list& list, std::int64_t i, PyObject* item) {
    if (PyList_SetItem(list.ptr(), i, Py_NewRef(item)) != 0) throw py::error_already_set();
  }

  // False for anything but an array such as the buffer's rows, of finite numbers.
  static bool write(const Buffer& buffer, std::int64_t i, PyObject* observation) {
    const int axes = buffer.rank - 1;
    if (!is_plain_like(observation, buffer.array.ptr(), axes, axes)) return false;
    std::byte* const row = buffer.data + i * buffer.bytes;
    std::memcpy(row, py::detail::array_proxy(observation)->data, static_cast<std::size_t>(buffer.bytes));
    return all_finite(row, buffer.dtype, buffer.bytes / size_of(buffer.dtype));
  }

  std::array<py::object, 2> keeps_;
  StepBookObject* book_;
  std::int64_t count_, at_ = 0;
  py::list observations_, rewards_, infos_;
  bool* terminated_;
  std::vector<Buffer> buffers_;
};

}  // namespace pyrl::bindings

PYRL_CONSTRUCTED(::pyrl::bindings::StepBookObject);
PYRL_CONSTRUCTED(::pyrl::bindings::StepCalls);
