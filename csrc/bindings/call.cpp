#include "bindings/call.hpp"

#include <cxxabi.h>
#include <pybind11/numpy.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "core/parallel.hpp"

namespace pyrl::bindings {
namespace {

// All under the interpreter lock.
unsigned long main_thread = 0;
int kernels = 0;  // under way without the lock
int forks = 0;    // that wait for them
thread_local int own_kernels = 0;

void restore(PyThreadState* state) noexcept {
  try {
    PyEval_RestoreThread(state);
  } catch (abi::__forced_unwind&) {  // the interpreter is ending
    stay_for_ever();
  }
}

bool torch_is_loaded() {
  static PyObject* const torch = PyUnicode_InternFromString("torch");
  return PyDict_Contains(PyImport_GetModuleDict(), torch) == 1;
}

// Whether another thread could run Python meanwhile.
bool others_exist() {
  PyThreadState* const own = PyThreadState_Get();
  PyThreadState* const first = PyInterpreterState_ThreadHead(PyThreadState_GetInterpreter(own));
  return first != own || PyThreadState_Next(own) != nullptr;
}

void before_fork() {
  ++forks;
  while (kernels > own_kernels) {
    PyThreadState* const state = PyEval_SaveThread();
    usleep(50);
    restore(state);
  }
}

void after_fork_in_parent() { --forks; }

void after_fork_in_child() {
  forks = 0;
  kernels = own_kernels;
  main_thread = PyThread_get_thread_ident();
}

}  // namespace

Call* Call::latest_ = nullptr;
std::int64_t Call::read_bytes_ = 0;

void ReleaseGil::now(bool waits) {
  if (state_ != nullptr || (forks > 0 && !waits)) return;
  if (const Call* const call = Call::current(); call != nullptr && others_exist())
    for (Py_ssize_t i = 0; i < call->count_; ++i) pin(call->args_[i]);
  note_torch_loaded(torch_is_loaded());
  if (PyThread_get_thread_ident() == main_thread) enter();
  ++kernels;
  ++own_kernels;
  state_ = PyEval_SaveThread();
}

void ReleaseGil::take_back() noexcept {
  leave();
  restore(state_);
  --kernels;
  --own_kernels;
}

void ReleaseGil::ask() {
  const Uninterrupted other_calls;  // those of a handler ask for themselves
  restore(state_);
  if (PyErr_CheckSignals() == 0) {
    state_ = PyEval_SaveThread();
    return;
  }
  const py::error_already_set error;
  state_ = PyEval_SaveThread();
  throw error;
}

// Keeps memory from being freed or moved while another thread may run. A NumPy array with a weak reference refuses resize(), whatever
// `refcheck` is. A tensor's storage outlives set_() and `tensor.data = ..` while something refers to it; that it is not resized is
// the caller's care, as it is for torch's own kernels.
void ReleaseGil::pin(PyObject* argument) {
  if (PyTuple_CheckExact(argument)) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(argument); ++i) pin(PyTuple_GET_ITEM(argument, i));
    return;
  }
  if (py::isinstance<py::array>(argument)) {
    PyObject* owner = argument;  // of the memory; a view refuses by itself
    for (PyObject* base = owner; base != nullptr && py::isinstance<py::array>(base); base = py::detail::array_proxy(base)->base) owner = base;
    keep(PyWeakref_NewRef(owner, nullptr));
  } else if (PyObject_HasAttrString(argument, "untyped_storage") == 1) {
    keep(PyObject_CallMethod(argument, "untyped_storage", nullptr));
  }
}

void ReleaseGil::keep(PyObject* made) {
  if (made == nullptr) throw py::error_already_set();
  pins_.push_back(py::reinterpret_steal<py::object>(made));
}

Lock& lock_of(const void* array) {
  static std::array<Lock, 64> locks;
  return locks[(reinterpret_cast<std::uintptr_t>(array) >> 6) % locks.size()];
}

void stay_for_ever() noexcept {
  for (;;) pause();
}

void register_process_hooks() {
  main_thread = py::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
  py::module_::import("os").attr("register_at_fork")(py::arg("before") = py::cpp_function(before_fork),
                                                     py::arg("after_in_parent") = py::cpp_function(after_fork_in_parent),
                                                     py::arg("after_in_child") = py::cpp_function(after_fork_in_child));
}

}  // namespace pyrl::bindings
