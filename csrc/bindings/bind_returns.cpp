// Advantages and returns over rollouts [T, N].
#include <limits>

#include "bindings/array_arg.hpp"
#include "bindings/border.hpp"
#include "bindings/cuda_arg.hpp"
#include "bindings/fast_call.hpp"
#include "bindings/real_arg.hpp"
#include "bindings/registry.hpp"
#include "returns/gae.hpp"
#include "returns/lambda_return.hpp"
#include "returns/n_step_return.hpp"
#include "returns/vtrace.hpp"

namespace py = pybind11;
using namespace pyrl;
using namespace pyrl::bindings;

namespace {

using Shape = std::array<std::int64_t, 2>;

void require_shape_of_reward(const ArrayArg& arg, const Shape& wanted, const char* meaning) {
  if (arg.rank == 2 && arg.shape[0] == wanted[0] && arg.shape[1] == wanted[1]) return;
  throw ShapeError(concat(arg.function, ": ", arg.name, " has shape ", arg.shape_text(), ", expected ", meaning, " = [", wanted[0], ", ", wanted[1], "] (from reward)"));
}

// What every function of the family takes first, in this order:
//   reward, value, next_value, terminated, truncated, final_value, valid
class RolloutArg {
 public:
  static constexpr std::size_t count = 7;

  // `value_needed`: the function reads value[t] itself, not only as the value after the step before.
  RolloutArg(Border& border, const FastArgs& args, bool value_needed)
      : function(border.function), reward(border.input(args[0])), location(real_location(location_of(reward), reward)) {
    value = border.optional(args[1], location);
    next_value = border.optional(args[2], location);
    terminated = border.input(args[3], location);
    truncated = border.input(args[4], location);
    final_value = border.optional(args[5], location);
    valid = border.optional(args[6], location);
    reward.require_rank(2, "[T, N]");
    PYRL_CHECK(value.given() || !value_needed, DTypeError, function, ": value is None, expected [T, N], or [T+1, N] without next_value");
    PYRL_CHECK(!final_value.given() || (value.given() && !next_value.given()), ArgumentError, function,
               ": final_value belongs to the form without next_value, where value is [T+1, N]; pass next_value or final_value, not both");
    if (value.given() && next_value.given()) {
      require_shape_of_reward(value, shape(), "[T, N]");
    } else if (value.given()) {
      require_shape_of_reward(value, {shape()[0] + 1, shape()[1]}, "[T+1, N] without next_value");
    }
    for (const ArrayArg* arg : {&next_value, &terminated, &truncated, &final_value, &valid})
      if (arg->given()) require_shape_of_reward(*arg, shape(), "[T, N]");
  }

  Shape shape() const { return {reward.shape[0], reward.shape[1]}; }

  template <class T>
  returns::RolloutView<T> view() const {
    returns::RolloutView<T> view;
    view.reward = reward.as<const T, 2>("[T, N]");
    if (value.given()) view.value = value.as<const T, 2>("[T, N]");
    if (next_value.given()) view.next_value = next_value.as<const T, 2>("[T, N]");
    if (final_value.given()) view.final_value = final_value.as<const T, 2>("[T, N]");
    view.terminated = terminated.as<const bool, 2>("[T, N]");
    view.truncated = truncated.as<const bool, 2>("[T, N]");
    if (valid.given()) view.valid = valid.as<const bool, 2>("[T, N]");
    return view;
  }

  const char* function;
  ArrayArg reward;
  Location location;
  ArrayArg value, next_value, terminated, truncated, final_value, valid;
};

// One output: `out` itself if given, else fresh.
template <class T>
ArrayView<T, 2> one_output(Border& border, py::object& owner, py::handle out, const char* name, const RolloutArg& rollout) {
  const Shape shape = rollout.shape();
  if (out.is_none()) return allocate<T, 2>(owner, rollout.location, shape);
  const OutputArg arg = border.output(out, name, rollout.location);
  require_shape_of_reward(arg, shape, "[T, N]");
  owner = py::reinterpret_borrow<py::object>(out);
  return arg.as<T, 2>("[T, N]");
}

// Two outputs as a pair.
template <class T>
py::tuple two_outputs(Border& border, ArrayView<T, 2>& first, ArrayView<T, 2>& second, const Arg& out, const RolloutArg& rollout) {
  const auto [out_first, out_second] = pair_if_given(out, "of two arrays");
  py::object a, b;
  first = one_output<T>(border, a, out_first, "out[0]", rollout);
  second = one_output<T>(border, b, out_second, "out[1]", rollout);
  py::tuple pair(2);
  PyTuple_SET_ITEM(pair.ptr(), 0, a.release().ptr());
  PyTuple_SET_ITEM(pair.ptr(), 1, b.release().ptr());
  return pair;
}

// (rollout.., gamma, gae_lambda, out)
py::object gae(FastArgs args) {
  Border border("gae");
  const RolloutArg rollout(border, args, true);
  const double gamma = number_in(args[7], 0, 1), gae_lambda = number_in(args[8], 0, 1);
  return with_real(rollout.reward, [&]<class T>(T) -> py::object {
    returns::GaeArgs<T> call{rollout.view<T>(), {}, {}, gamma, gae_lambda};
    py::tuple result = two_outputs<T>(border, call.advantage, call.return_, args[9], rollout);
    run_at(rollout.location, "gae", [&] { returns::gae(call); }, [&](const auto& stream) { returns::gae_cuda(call, stream); });
    return result;
  });
}

py::object lambda_return_as(const char* function, const FastArgs& args, double lambda, py::handle out) {
  Border border(function);
  const RolloutArg rollout(border, args, false);
  const double gamma = number_in(args[7], 0, 1);
  return with_real(rollout.reward, [&]<class T>(T) -> py::object {
    returns::LambdaReturnArgs<T> call{rollout.view<T>(), {}, gamma, lambda};
    py::object result;
    call.return_ = one_output<T>(border, result, out, "out", rollout);
    run_at(rollout.location, function, [&] { returns::lambda_return(call, function); },
           [&](const auto& stream) { returns::lambda_return_cuda(call, stream); });
    return result;
  });
}

// (rollout.., gamma, lambda_, out)
py::object lambda_return(FastArgs args) {
  PYRL_CHECK(!args[1].is_none() || !args[2].is_none(), DTypeError, "lambda_return: value and next_value are None, expected next_value [T, N] or value [T+1, N]");
  return lambda_return_as("lambda_return", args, number_in(args[8], 0, 1), args[9]);
}

// (rollout.., gamma, out)
py::object discounted_return(FastArgs args) { return lambda_return_as("discounted_return", args, 1.0, args[8]); }

// (rollout.., gamma, n, out)
py::object n_step_return(FastArgs args) {
  const char* function = "n_step_return";
  Border border(function);
  const RolloutArg rollout(border, args, false);
  const double gamma = number_in(args[7], 0, 1);
  const std::int64_t n = integer_arg(args[8]);
  PYRL_CHECK(n >= 1, ArgumentError, function, ": n is ", n, ", expected at least 1");
  return with_real(rollout.reward, [&]<class T>(T) -> py::object {
    returns::NStepReturnArgs<T> call{rollout.view<T>(), {}, n, gamma};
    py::object result;
    call.return_ = one_output<T>(border, result, args[9], "out", rollout);
    run_at(rollout.location, function, [&] { returns::n_step_return(call); },
           [&](const auto& stream) { returns::n_step_return_cuda(call, stream); });
    return result;
  });
}

// (rollout.., log_prob, behaviour_log_prob, gamma, lambda_, rho_bar, c_bar, out)
py::object vtrace(FastArgs args) {
  const char* function = "vtrace";
  Border border(function);
  const RolloutArg rollout(border, args, true);
  const ArrayArg log_prob = border.input(args[7], rollout.location);
  const ArrayArg behaviour_log_prob = border.input(args[8], rollout.location);
  for (const ArrayArg* arg : {&log_prob, &behaviour_log_prob}) require_shape_of_reward(*arg, rollout.shape(), "[T, N]");
  const double gamma = number_in(args[9], 0, 1), lambda = number_in(args[10], 0, 1);
  const double rho_bar = number_in(args[11], 0, infinity), c_bar = number_in(args[12], 0, infinity);
  return with_real(rollout.reward, [&]<class T>(T) -> py::object {
    returns::VtraceArgs<T> call{rollout.view<T>(), log_prob.as<const T, 2>("[T, N]"), behaviour_log_prob.as<const T, 2>("[T, N]"), {}, {},
                                gamma, lambda, rho_bar, c_bar};
    py::tuple result = two_outputs<T>(border, call.vs, call.pg_advantage, args[13], rollout);
    run_at(rollout.location, function, [&] { returns::vtrace(call); }, [&](const auto& stream) { returns::vtrace_cuda(call, stream); });
    return result;
  });
}

}  // namespace

PYRL_BINDINGS(returns, m) {
  def_fast<gae, "gae(reward, value, next_value, terminated, truncated, final_value, valid, gamma, gae_lambda, out)">(m);
  def_fast<lambda_return, "lambda_return(reward, value, next_value, terminated, truncated, final_value, valid, gamma, lambda_, out)">(m);
  def_fast<discounted_return, "discounted_return(reward, value, next_value, terminated, truncated, final_value, valid, gamma, out)">(m);
  def_fast<n_step_return, "n_step_return(reward, value, next_value, terminated, truncated, final_value, valid, gamma, n, out)">(m);
  def_fast<vtrace, "vtrace(reward, value, next_value, terminated, truncated, final_value, valid, log_prob, behaviour_log_prob, gamma, lambda_, rho_bar, c_bar, out)">(m);
}
