// A step of a rollout in one call (pyrl.envs.inline): a native policy acts, the step functions of the environments are called, and the row
// is written.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "bindings/acting_call.hpp"
#include "bindings/policy_draw.hpp"
#include "bindings/registry.hpp"
#include "bindings/step_calls.hpp"

namespace py = pybind11;
using namespace pyrl;
using namespace pyrl::bindings;

namespace {

class RolloutCalls {
 public:
  // calls: a StepCalls whose buffers hold float32 or float64. moments: None, or those that normalise them. actions: the (start, count) of Discrete
  // actions, which environments get as Python numbers; or a function that makes the list of what they get from a row of `columns.action`.
  // columns: (observation, following, action, reward, terminated, truncated, log_prob), [T, N, ...] each; see `row`.
  RolloutCalls(py::object calls, py::object network, py::object parameters, py::object moments, py::object log_std, py::object random, py::object actions,
               py::tuple columns)
      : keeps_{calls, network, parameters, moments, log_std, random, columns},
        drawn_(columns.size() > 2 ? py::object(columns[2]) : py::none()),
        calls_(calls.cast<StepCalls&>()),
        network_(network.cast<NetworkCore&>()),
        random_(random_arg(random, "RolloutCalls")),
        n_(calls_.count()),
        make_actions_(std::move(actions)),
        counted_(PyTuple_Check(make_actions_.ptr()) != 0),
        actions_(py::make_tuple(py::none()) * py::int_(n_)) {
    const auto* const found = std::get_if<nn::Network<float>>(&network_.network);
    PYRL_CHECK(found != nullptr, DTypeError, "RolloutCalls: the network is of float64, expected float32");
    if (counted_) {
      const auto [start, count] = pair_arg({make_actions_, "RolloutCalls", "actions"}, "(start, count)");
      from_ = integer_arg(start, "RolloutCalls", "actions[0]");
      const std::int64_t expected = integer_arg(count, "RolloutCalls", "actions[1]");
      PYRL_CHECK(network_.out == expected, ShapeError, "RolloutCalls: the network has ", network_.out, " outputs, expected ", expected, " (the actions)");
    }
    PYRL_CHECK(!calls_.buffers().empty(), ArgumentError, "RolloutCalls: calls has no buffers, expected some");
    const DType dtype = calls_.buffers()[0].dtype;
    for (const StepCalls::Buffer& buffer : calls_.buffers())
      PYRL_CHECK(buffer.dtype == dtype && (dtype == DType::Float32 || dtype == DType::Float64) && buffer.bytes == size_of(dtype) * network_.in, ShapeError,
                 "RolloutCalls: an observation has ", buffer.bytes / size_of(buffer.dtype), " numbers of ", name_of(buffer.dtype), ", expected ", network_.in,
                 " of float32 or float64 (the network's inputs)");
    Border border("RolloutCalls");
    parameters_ = static_cast<const float*>(network_.arena(border.input(keeps_[2], "parameters")));
    draw_.width = network_.out;
    if (!moments.is_none()) moments_.read(border, moments, network_.in, "RolloutCalls");
    if (!log_std.is_none()) draw_.log_std = {border.input(log_std, "log_std").as<const float, 1>({network_.out}, "[A]").data, {1, network_.out}};
    PYRL_CHECK(columns.size() == 7, ShapeError, "RolloutCalls: columns has ", columns.size(), " arrays, expected 7");
    const std::int64_t shown = n_ * size_of(dtype) * network_.in, acted = n_ * (log_std.is_none() ? 8 : 4 * network_.out);
    const DType kind = log_std.is_none() ? DType::Int64 : DType::Float32;
    observation_ = column(border, columns[0], "columns.observation", dtype, shown);
    following_ = column(border, columns[1], "columns.following", dtype, shown);
    action_ = column(border, columns[2], "columns.action", kind, acted);
    reward_ = column(border, columns[3], "columns.reward", DType::Float64, 8 * n_);
    terminated_ = column(border, columns[4], "columns.terminated", DType::Bool, n_);
    truncated_ = column(border, columns[5], "columns.truncated", DType::Bool, n_);
    log_prob_ = column(border, columns[6], "columns.log_prob", DType::Float32, 4 * n_);
    output_.resize(static_cast<std::size_t>(n_ * network_.out));
  }

  // Row t: acts on the observations in buffer `shown`, whose successors go into the buffer behind it, and writes observation, action and
  // log_prob. Returns what `StepCalls::run` does of the environments' results; where all were as usual and no episode ended, the rest of the
  // row is written too, and it is -2 if float32 does not hold a reward.
  std::int64_t row(std::int64_t t, std::size_t shown, const py::list& steps, py::list& ended) {
    const std::vector<StepCalls::Buffer>& buffers = calls_.buffers();
    PYRL_CHECK(t >= 0 && t < rows_ && shown < buffers.size(), ArgumentError, "row: t is ", t, " and shown ", shown, ", expected less than ", rows_, " and ", buffers.size());
    const std::size_t next = (shown + 1) % buffers.size();
    calls_.begin();
    act(t, buffers[shown]);
    const std::int64_t at = calls_.run(steps, actions_, next, ended);
    if (at >= 0 || !ended.empty()) return at;
    std::memcpy(following_.row(t), buffers[next].data, static_cast<std::size_t>(following_.bytes));
    std::memcpy(reward_.row(t), calls_.reward(), static_cast<std::size_t>(reward_.bytes));
    std::memset(terminated_.row(t), 0, static_cast<std::size_t>(n_));
    std::memset(truncated_.row(t), 0, static_cast<std::size_t>(n_));
    double largest = 0;
    for (std::int64_t i = 0; i < n_; ++i) largest = std::max(largest, std::abs(calls_.reward()[i]));
    return largest > std::numeric_limits<float>::max() ? -2 : -1;
  }

  // Of the last row, as the environments got them.
  const py::list& actions() const { return actions_; }

 private:
  struct Column {
    std::byte* data = nullptr;
    std::int64_t bytes = 0;  // of one row
    std::byte* row(std::int64_t t) const { return data + t * bytes; }
  };

  Column column(Border& border, py::handle object, const char* name, DType dtype, std::int64_t bytes) {
    OutputArg arg = border.output(object, name);
    arg.require_cpu();
    arg.require_dtype(dtype);
    arg.require_contiguous();
    arg.require_writable();
    PYRL_CHECK(arg.rank >= 2 && arg.shape[0] >= 1 && arg.shape[1] == n_ && arg.bytes() == arg.shape[0] * bytes, ShapeError, "RolloutCalls: ", name, " has shape ",
               arg.shape_text(), ", expected [T, ", n_, ", ...] of ", bytes, " bytes a row");
    rows_ = rows_ == 0 ? arg.shape[0] : std::min(rows_, arg.shape[0]);
    return {static_cast<std::byte*>(arg.data), bytes};
  }

  // Observations as the network takes them, and as `Encoder.array` makes them: float32 [N, D].
  const float* features(const StepCalls::Buffer& shown) {
    const auto* const floats = reinterpret_cast<const float*>(shown.data);
    const auto* const doubles = reinterpret_cast<const double*>(shown.data);
    const bool single = shown.dtype == DType::Float32;
    if (moments_.present()) return single ? moments_.normalize(floats, n_, features_) : moments_.normalize(doubles, n_, features_);
    if (single) return floats;
    features_.assign(doubles, doubles + n_ * network_.in);
    return features_.data();
  }

  void act(std::int64_t t, const StepCalls::Buffer& shown) {
    std::memcpy(observation_.row(t), shown.data, static_cast<std::size_t>(observation_.bytes));
    Call::read(4 * network_.arena_size + observation_.bytes);
    const float* const x = features(shown);
    alone(network_.lock, [&] { std::get<nn::Network<float>>(network_.network).infer(parameters_, {x, network_.in}, n_, output_.data()); });
    auto* const log_prob = reinterpret_cast<float*>(log_prob_.row(t));
    with_draws(random_, "row", 1, [&](const RandomStream& stream) { draw_(output_.data(), n_, action_.row(t), log_prob, {stream.key, stream.draw, nullptr}); });
    if (!counted_) {
      actions_ = make_actions_(drawn_[py::int_(t)]);
      return;
    }
    const auto* const drawn = reinterpret_cast<const std::int64_t*>(action_.row(t));
    for (std::int64_t i = 0; i < n_; ++i) {
      PyObject* const number = PyLong_FromLongLong(drawn[i] + from_);
      if (number == nullptr || PyList_SetItem(actions_.ptr(), i, number) != 0) throw py::error_already_set();
    }
  }

  std::array<py::object, 7> keeps_;
  py::object drawn_;  // the column of actions
  StepCalls& calls_;
  NetworkCore& network_;
  RandomObject& random_;
  std::int64_t n_;
  py::object make_actions_;
  bool counted_;
  std::int64_t from_ = 0;
  py::list actions_;
  const float* parameters_;
  MomentsArg moments_;
  PolicyDraw draw_;
  std::int64_t rows_ = 0;
  Column observation_, following_, action_, reward_, terminated_, truncated_, log_prob_;
  std::vector<float> features_, output_;
};

// (t, shown, steps, ended) -> see there
py::object row(RolloutCalls& self, FastArgs args) {
  for (const std::size_t i : {2, 3})
    PYRL_CHECK(PyList_CheckExact(args[i].ptr()), DTypeError, "row: ", args[i].name, " is a ", Py_TYPE(args[i].ptr())->tp_name, ", expected a list");
  auto ended = py::reinterpret_borrow<py::list>(args[3]);
  const auto steps = py::reinterpret_borrow<py::list>(args[2]);
  return py::int_(self.row(integer_arg(args[0]), static_cast<std::size_t>(integer_arg(args[1])), steps, ended));
}

}  // namespace

PYRL_CONSTRUCTED(RolloutCalls);

PYRL_BINDINGS(rollout_calls, m) {
  py::class_<RolloutCalls> calls(m, "RolloutCalls", "Steps of a rollout in environments that are functions, a call each.");
  calls.def(py::init<py::object, py::object, py::object, py::object, py::object, py::object, py::object, py::tuple>(), py::arg("calls"), py::arg("network"),
            py::arg("parameters"), py::arg("moments"), py::arg("log_std"), py::arg("random"), py::arg("actions"), py::arg("columns"))
      .def_property_readonly("actions", &RolloutCalls::actions);
  def_fast_method<RolloutCalls, row, "row(t, shown, steps, ended)">(calls);
}
