// Do modules still hold views of their arena? Asked before each native call, so it costs 0.1 us a parameter, not 1 (pyrl.nets.arena).
#include <pybind11/stl.h>

#include <vector>

#include "bindings/array_arg.hpp"
#include "bindings/constructed.hpp"
#include "bindings/fast_call.hpp"
#include "bindings/registry.hpp"
#include "bindings/tensor_arg.hpp"

namespace py = pybind11;
using namespace pyrl;
using namespace pyrl::bindings;

namespace {

class ArenaViews {
 public:
  // (a module's dict of parameters, name in it, offset in bytes)
  explicit ArenaViews(const std::vector<std::tuple<py::dict, py::str, std::int64_t>>& views) {
    for (const auto& [parameters, name, offset] : views) views_.push_back({parameters, name, offset});
  }

  // Looked up by name: loading with assign=True and plain assignment put new parameters into the dict.
  // A cast moves a parameter too, so its address tells all.
  bool intact(py::handle values) const {
    const auto* arena = static_cast<const char*>(cpu_address(values));
    if (arena == nullptr) return elsewhere(look_at_array(values, "intact", "values"));
    for (const View& view : views_) {
      PyObject* parameter = PyDict_GetItem(view.parameters.ptr(), view.name.ptr());
      if (parameter == nullptr || parameter == Py_None || cpu_address(parameter) != arena + view.offset) return false;
    }
    return true;
  }

  bool trainable() const {
    for (const View& view : views_) {
      PyObject* parameter = PyDict_GetItem(view.parameters.ptr(), view.name.ptr());
      if (parameter == nullptr || torch_type(Py_TYPE(parameter)).type == nullptr || !requires_grad(parameter)) return false;
    }
    return true;
  }

 private:
  struct View {
    py::dict parameters;
    py::str name;
    std::int64_t offset;
  };

  bool elsewhere(const ArrayArg& arena) const {
    for (const View& view : views_) {
      PyObject* parameter = PyDict_GetItem(view.parameters.ptr(), view.name.ptr());
      if (parameter == nullptr || parameter == Py_None) return false;
      const ArrayArg found = look_at_array(parameter, "intact", "parameter");
      if (found.on_cpu() || found.data != static_cast<const char*>(arena.data) + view.offset) return false;
    }
    return true;
  }

  std::vector<View> views_;
};

py::object intact(ArenaViews& self, FastArgs args) { return py::bool_(self.intact(args[0])); }
py::object trainable(ArenaViews& self, FastArgs) { return py::bool_(self.trainable()); }

}  // namespace

PYRL_CONSTRUCTED(ArenaViews);

PYRL_BINDINGS(arenas, m) {
  py::class_<ArenaViews> views(m, "ArenaViews", "Where the parameters of modules should lie in an arena.");
  views.def(py::init<const std::vector<std::tuple<py::dict, py::str, std::int64_t>>&>(), py::arg("views"));
  def_fast_method<ArenaViews, intact, 1>(views, "intact", "intact(values)");
  def_fast_method<ArenaViews, trainable, 0>(views, "trainable", "trainable()");
}
