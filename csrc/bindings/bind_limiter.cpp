// The rate limiter of a replay. The Python face is pyrl.ops.RateLimiter, which waits in slices: so forks and signals never wait for it.
#include "bindings/constructed.hpp"
#include "bindings/fast_call.hpp"
#include "bindings/registry.hpp"
#include "replay/limiter.hpp"

namespace py = pybind11;
using namespace pyrl;
using namespace pyrl::bindings;

namespace pyrl::bindings {

struct LimiterCore : replay::RateLimiter {
  using replay::RateLimiter::RateLimiter;
};

}  // namespace pyrl::bindings

PYRL_CONSTRUCTED(::pyrl::bindings::LimiterCore);

namespace {

replay::LimiterOptions limiter_options(double samples_per_insert, std::int64_t min_size, double error_buffer, std::int64_t insert_size, std::int64_t sample_size) {
  return {samples_per_insert, min_size, error_buffer, insert_size, sample_size};
}

// (count, seconds) -> bool
template <bool (replay::RateLimiter::*wait)(std::int64_t, double)>
py::object limiter_wait(LimiterCore& self, FastArgs args) {
  const std::int64_t count = integer_arg(args[0]);
  const double seconds = number_in(args[1], 0, 1);
  bool allowed = false;
  if (seconds > 0) {
    const ReleaseGil released(ReleaseGil::When::always);
    allowed = (self.*wait)(count, seconds);
  } else {
    allowed = (self.*wait)(count, 0);
  }
  return py::bool_(allowed);
}

// (count, stored)
py::object limiter_end_insert(LimiterCore& self, FastArgs args) {
  self.end_insert(integer_arg(args[0]), flag_arg(args[1]));
  return py::none();
}

}  // namespace

PYRL_BINDINGS(limiter, m) {
  py::class_<LimiterCore> core(m, "LimiterCore", "The rate limiter behind pyrl.ops.RateLimiter.");
  core.def(py::init([](double samples_per_insert, std::int64_t min_size, double error_buffer, std::int64_t insert_size, std::int64_t sample_size) {
             return new LimiterCore(limiter_options(samples_per_insert, min_size, error_buffer, insert_size, sample_size));
           }),
           py::arg("samples_per_insert"), py::arg("min_size"), py::arg("error_buffer"), py::arg("insert_size"), py::arg("sample_size"))
      .def_static("least_buffer",
                  [](double samples_per_insert, std::int64_t insert_size, std::int64_t sample_size) {
                    return replay::RateLimiter::least_buffer(limiter_options(samples_per_insert, 1, 0, insert_size, sample_size));
                  },
                  py::arg("samples_per_insert"), py::arg("insert_size"), py::arg("sample_size"))
      .def("can_insert", [](const LimiterCore& self, std::int64_t count) { return self.can_insert(count); }, py::arg("count"))
      .def("can_sample", [](const LimiterCore& self, std::int64_t count) { return self.can_sample(count); }, py::arg("count"))
      .def("stop", [](LimiterCore& self) { self.stop(); })
      .def("resume", [](LimiterCore& self) { self.resume(); })
      .def("set_counts", [](LimiterCore& self, std::int64_t inserts, std::int64_t samples) { self.set_counts(inserts, samples); }, py::arg("inserts"), py::arg("samples"))
      .def_property_readonly("stopped", [](const LimiterCore& self) { return self.stopped(); })
      .def_property_readonly("inserts", [](const LimiterCore& self) { return self.inserts(); })
      .def_property_readonly("samples", [](const LimiterCore& self) { return self.samples(); });
  def_fast_method<LimiterCore, limiter_wait<&replay::RateLimiter::begin_insert>, "RateLimiter.begin_insert(count, seconds)">(core);
  def_fast_method<LimiterCore, limiter_wait<&replay::RateLimiter::sample>, "RateLimiter.sample(count, seconds)">(core);
  def_fast_method<LimiterCore, limiter_end_insert, "RateLimiter.end_insert(count, stored)">(core);
}
