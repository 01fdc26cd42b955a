// Do modules still hold views of their arena, and are they still the same modules? Asked before each native call, so it costs 0.1 us a
// parameter, not 1 (pyrl.engine.arena).
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
  // views: (a module's dict of parameters, name in it, offset in bytes). sizes: (dict, its size). entries: (dict, name in it, the object
  // there; None: no such name). The last two describe the tree of modules: replaced, added and removed ones, hooks, forwards of instances.
  ArenaViews(const std::vector<std::tuple<py::dict, py::str, std::int64_t>>& views, const std::vector<std::tuple<py::dict, std::int64_t>>& sizes,
             const std::vector<std::tuple<py::dict, py::str, py::object>>& entries) {
    for (const auto& [parameters, name, offset] : views) views_.push_back({parameters, name, offset});
    for (const auto& [dict, size] : sizes) sizes_.push_back({dict, static_cast<Py_ssize_t>(size)});
    for (const auto& [dict, name, object] : entries) entries_.push_back({dict, name, object});
  }

  bool same_modules() const {
    for (const Size& size : sizes_)
      if (PyDict_GET_SIZE(size.dict.ptr()) != size.size) return false;
    for (const Entry& entry : entries_) {
      PyObject* found = PyDict_GetItemWithError(entry.dict.ptr(), entry.name.ptr());
      if (found != (entry.object.is_none() ? nullptr : entry.object.ptr())) return false;
    }
    return true;
  }

  // Looked up by name: loading with assign=True and plain assignment put new parameters into the dict.
  // A cast moves a parameter too, so its address tells all.
  bool intact(py::handle values) const {
    if (!same_modules()) return false;
    const auto* arena = static_cast<const char*>(cpu_address(values));
    if (arena == nullptr) return elsewhere(look_at_array(values, "intact", "values"));
    for (const View& view : views_) {
      PyObject* parameter = PyDict_GetItemWithError(view.parameters.ptr(), view.name.ptr());
      if (parameter == nullptr || parameter == Py_None || cpu_address(parameter) != arena + view.offset) return false;
    }
    return true;
  }

  // Both in one look, for an update.
  bool intact_and_trainable(py::handle values) const {
    if (!same_modules()) return false;
    const auto* arena = static_cast<const char*>(cpu_address(values));
    if (arena == nullptr) return false;
    for (const View& view : views_) {
      PyObject* parameter = PyDict_GetItemWithError(view.parameters.ptr(), view.name.ptr());
      if (parameter == nullptr || torch_type(Py_TYPE(parameter)).type == nullptr || cpu_address(parameter) != arena + view.offset || !requires_grad(parameter)) return false;
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

  struct Size {
    py::dict dict;
    Py_ssize_t size;
  };

  struct Entry {
    py::dict dict;
    py::str name;
    py::object object;
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
  std::vector<Size> sizes_;
  std::vector<Entry> entries_;
};

py::object intact(ArenaViews& self, FastArgs args) { return py::bool_(self.intact(args[0])); }
py::object intact_and_trainable(ArenaViews& self, FastArgs args) { return py::bool_(self.intact_and_trainable(args[0])); }
py::object trainable(ArenaViews& self, FastArgs) { return py::bool_(self.trainable()); }

}  // namespace

PYRL_CONSTRUCTED(ArenaViews);

PYRL_BINDINGS(arenas, m) {
  py::class_<ArenaViews> views(m, "ArenaViews", "Where the parameters of modules should lie in an arena.");
  views.def(py::init<const std::vector<std::tuple<py::dict, py::str, std::int64_t>>&, const std::vector<std::tuple<py::dict, std::int64_t>>&,
                     const std::vector<std::tuple<py::dict, py::str, py::object>>&>(),
            py::arg("views"), py::arg("sizes"), py::arg("entries"));
  def_fast_method<ArenaViews, intact, "intact(values)">(views);
  def_fast_method<ArenaViews, intact_and_trainable, "intact_and_trainable(values)">(views);
  def_fast_method<ArenaViews, trainable, "trainable()">(views);
}
