// The extension module: exceptions, switches, and every registered family.
#include <pybind11/pybind11.h>

#include "bindings/call.hpp"
#include "bindings/registry.hpp"
#include "core/check.hpp"
#include "core/cuda.hpp"
#include "core/parallel.hpp"
#include "core/platform.hpp"

namespace py = pybind11;

namespace {

void raise(const char* type, const char* message) {
  py::set_error(py::module_::import("pyrl.errors").attr(type), message);
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "C++ kernels of pyrl. Private: use pyrl.ops and pyrl.buffers.";
  m.attr("__version__") = PYRL_VERSION;

  // pyrl.errors is the one home of the exception types.
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      std::rethrow_exception(pointer);
    } catch (const pyrl::ShapeError& error) {
      raise("ShapeError", error.what());
    } catch (const pyrl::DTypeError& error) {
      raise("DTypeError", error.what());
    } catch (const pyrl::DeviceError& error) {
      raise("DeviceError", error.what());
    } catch (const pyrl::NonFiniteError& error) {
      raise("NonFiniteError", error.what());
    }
  });

  m.def("set_num_threads", &pyrl::set_num_threads, py::arg("count"), "Sets the thread count; 0 = automatic. Returns the previous setting.");
  m.def("num_threads", &pyrl::num_threads);
  m.def("simd_level", [] { return static_cast<int>(pyrl::simd::level()); });
  m.def("set_simd_level", [](int level) { pyrl::simd::set_level(static_cast<pyrl::simd::Level>(level)); }, py::arg("level"));
  m.def("cuda_built", [] { return pyrl::cuda_built; });
  m.def("supported_simd_level", [] { return static_cast<int>(pyrl::simd::supported()); });

  pyrl::bindings::register_process_hooks();
  for (const auto& [name, bind] : pyrl::bindings::binders()) bind(m);
}
