// Losses and their gradients.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "bindings/array_arg.hpp"
#include "bindings/border.hpp"
#include "bindings/fast_call.hpp"
#include "bindings/nvec_arg.hpp"
#include "bindings/real_arg.hpp"
#include "bindings/registry.hpp"
#include "bindings/taken.hpp"
#include "nn/policy_loss.hpp"
#include "nn/squashed_gaussian.hpp"
#include "nn/value_loss.hpp"

namespace py = pybind11;
using namespace pyrl;
using namespace pyrl::bindings;

namespace {

template <class T, int Rank>
ArrayView<T, Rank> view_if_given(const ArrayArg& array, const std::array<std::int64_t, Rank>& shape, const char* meaning) {
  return array.given() ? array.as<T, Rank>(shape, meaning) : ArrayView<T, Rank>{};
}

void require_choices(const TakenIndices& choices, std::int64_t count, const std::vector<std::int64_t>& nvec, const char* function) {
  const auto components = static_cast<std::int64_t>(nvec.size());
  std::int64_t bad = components == 1 ? choices.first_outside(nvec[0]) : -1;
  for (std::int64_t i = 0; components > 1 && bad < 0 && i < count; ++i) {
    const std::int64_t chosen = choices.data()[i];
    if (chosen < 0 || chosen >= nvec[static_cast<std::size_t>(i % components)]) bad = i;
  }
  PYRL_CHECK(bad < 0, ArgumentError, function, ": action of row ", bad / components, " is ", choices.data()[bad], ", expected at least 0 and less than ",
             nvec[static_cast<std::size_t>(bad % components)]);
}

// (output, nvec or None, log_std or None, action, log_prob_old or None, advantage, normalize_advantage, clip_range, ent_coef, d_output, d_log_std)
//   -> (loss, entropy, kl, clip_fraction, d_output)
py::object policy_loss(FastArgs args) {
  const char* function = "policy_loss";
  Border border(function);
  const ArrayArg output = border.input(args[0]);
  const Location location = real_location(output.kind, output);
  const ArrayArg action = border.input(args[3], location), advantage = border.input(args[5], location);
  const ArrayArg log_std = border.optional(args[2], location), log_prob_old = border.optional(args[4], location);
  output.require_rank(2, "[B, K]");
  const std::int64_t batch = output.shape[0], width = output.shape[1];
  const std::vector<std::int64_t> nvec = args[1].is_none() ? std::vector<std::int64_t>{} : nvec_arg(args[1], output);
  PYRL_CHECK(nvec.empty() == log_std.given(), ArgumentError, function, ": nvec and log_std are both ", log_std.given() ? "given" : "None",
             ", expected one of them");
  PYRL_CHECK(log_std.given() || args[10].is_none(), ArgumentError, function, ": d_log_std is given and log_std is None, expected both or neither");
  const auto components = static_cast<std::int64_t>(nvec.size());
  const bool normalize = flag_arg(args[6]);
  const double clip_range = number_in(args[7], 0, infinity), ent_coef = finite_arg(args[8]);
  return with_real(output, [&]<class Real>(Real) -> py::object {
    nn::PolicyLossArgs<Real> call;
    std::optional<TakenIndices> choices;
    call.output = output.as<const Real, 2>("[B, K]");
    call.advantage = advantage.as<const Real, 1>({batch}, "[B]");
    call.log_prob_old = view_if_given<const Real, 1>(log_prob_old, {batch}, "[B]");
    if (components > 0) {
      call.nvec = {nvec.data(), {components}};
      call.choice = action.rank == 1 && components == 1 ? ArrayView<const std::int64_t, 2>{action.as<const std::int64_t, 1>({batch}, "[B]").data, {batch, 1}}
                                                        : action.as<const std::int64_t, 2>({batch, components}, "[B, M]");
      choices.emplace(call.choice.data, call.choice.size());
      require_choices(*choices, call.choice.size(), nvec, function);
      call.choice.data = choices->data();
    } else {
      call.log_std = log_std.as<const Real, 1>({width}, "[A]");
      call.action = action.as<const Real, 2>({batch, width}, "[B, A]");
      call.d_log_std = border.output(args[10], location).template as<Real, 1>({width}, "[A]");
    }
    call.normalize_advantage = normalize;
    call.clip_range = clip_range;
    call.ent_coef = ent_coef;
    py::object d_output;
    call.d_output = border.template result<Real, 2>(d_output, args[9], location, {batch, width}, "d_output", "[B, K]");
    nn::PolicyLossReport report;
    {
      ReleaseGil released;
      report = nn::policy_loss(call);
    }
    if (!std::isfinite(report.loss + report.entropy + report.log_ratio))
      throw_non_finite<Real>({&output, &log_std, &action, &log_prob_old, &advantage});
    return py::make_tuple(report.loss, report.entropy, report.kl, report.clip_fraction, std::move(d_output));
  });
}

// (value, return, value_old or None, weight or None, clip_range, coefficient, huber, d_value) -> (loss, d_value)
py::object value_loss(FastArgs args) {
  const char* function = "value_loss";
  Border border(function);
  const ArrayArg value = border.input(args[0]);
  const Location location = real_location(value.kind, value);
  const ArrayArg return_ = border.input(args[1], location);
  const ArrayArg value_old = border.optional(args[2], location), weight = border.optional(args[3], location);
  const double clip_range = number_in(args[4], 0, infinity);
  const double coefficient = finite_arg(args[5]);
  const bool huber = flag_arg(args[6]);
  const std::int64_t batch = value.size();
  PYRL_CHECK(value.rank == 1 || (value.rank == 2 && value.shape[1] == 1), ShapeError, function, ": value has shape ", value.shape_text(), ", expected [B] or [B, 1]");
  return with_real(value, [&]<class Real>(Real) -> py::object {
    nn::ValueLossArgs<Real> call;
    call.value = {(value.rank == 1 ? value.as<const Real, 1>("[B]").data : value.as<const Real, 2>("[B, 1]").data), {batch}};
    call.return_ = return_.as<const Real, 1>({batch}, "[B]");
    call.value_old = view_if_given<const Real, 1>(value_old, {batch}, "[B]");
    call.weight = view_if_given<const Real, 1>(weight, {batch}, "[B]");
    call.clip_range = clip_range;
    call.coefficient = coefficient;
    call.huber = huber;
    py::object d_value;
    call.d_value = {border.template result<Real, 2>(d_value, args[7], location, {batch, 1}, "d_value", "[B, 1]").data, {batch}};
    double loss = 0;
    {
      ReleaseGil released;
      loss = nn::value_loss(call);
    }
    if (!std::isfinite(loss)) throw_non_finite<Real>({&value, &return_, &value_old, &weight});
    return py::make_tuple(loss, std::move(d_value));
  });
}

// (q, action, reward, discount, next_q_target, next_q_online or None, weight or None, huber, d_q, td_error) -> (loss, q_mean, d_q, td_error)
py::object q_loss(FastArgs args) {
  const char* function = "q_loss";
  Border border(function);
  const ArrayArg q = border.input(args[0]);
  const Location location = real_location(q.kind, q);
  const ArrayArg action = border.input(args[1], location), reward = border.input(args[2], location);
  const ArrayArg discount = border.input(args[3], location), next_q_target = border.input(args[4], location);
  const ArrayArg next_q_online = border.optional(args[5], location), weight = border.optional(args[6], location);
  const bool huber = flag_arg(args[7]);
  q.require_rank(2, "[B, A]");
  const std::int64_t batch = q.shape[0], actions = q.shape[1];
  return with_real(q, [&]<class Real>(Real) -> py::object {
    nn::QLossArgs<Real> call;
    call.q = q.as<const Real, 2>("[B, A]");
    call.action = action.as<const std::int64_t, 1>({batch}, "[B]");
    const TakenIndices taken(call.action.data, batch);
    require_choices(taken, batch, {actions}, function);
    call.action.data = taken.data();
    call.reward = reward.as<const Real, 1>({batch}, "[B]");
    call.discount = discount.as<const Real, 1>({batch}, "[B]");
    call.next_q_target = next_q_target.as<const Real, 2>({batch, actions}, "[B, A]");
    call.next_q_online = view_if_given<const Real, 2>(next_q_online, {batch, actions}, "[B, A]");
    call.weight = view_if_given<const Real, 1>(weight, {batch}, "[B]");
    call.huber = huber;
    py::object d_q, td_error;
    call.d_q = border.template result<Real, 2>(d_q, args[8], location, {batch, actions}, "d_q", "[B, A]");
    call.td_error = border.template result<Real, 1>(td_error, args[9], location, {batch}, "td_error", "[B]");
    nn::QLossReport report;
    {
      ReleaseGil released;
      report = nn::q_loss(call);
    }
    if (!std::isfinite(report.loss)) throw_non_finite<Real>({&q, &reward, &discount, &next_q_target, &next_q_online, &weight});
    return py::make_tuple(report.loss, report.q_mean, std::move(d_q), std::move(td_error));
  });
}

// (value, advantage, out) -> q
py::object dueling(FastArgs args) {
  const char* function = "dueling";
  Border border(function);
  const ArrayArg advantage = border.input(args[1]);
  const Location location = real_location(advantage.kind, advantage);
  const ArrayArg value = border.input(args[0], location);
  advantage.require_rank(2, "[B, A]");
  const std::int64_t batch = advantage.shape[0], actions = advantage.shape[1];
  return with_real(advantage, [&]<class Real>(Real) -> py::object {
    const auto v = value.as<const Real, 2>({batch, 1}, "[B, 1]");
    const auto a = advantage.as<const Real, 2>("[B, A]");
    py::object q;
    const auto out = border.template result<Real, 2>(q, args[2], location, {batch, actions}, "out", "[B, A]", &advantage);
    ReleaseGil released;
    nn::dueling<Real>(v, a, out);
    return q;
  });
}

// (d_q, d_value, d_advantage) -> (d_value, d_advantage)
py::object dueling_backward(FastArgs args) {
  const char* function = "dueling_backward";
  Border border(function);
  const ArrayArg d_q = border.input(args[0]);
  const Location location = real_location(d_q.kind, d_q);
  d_q.require_rank(2, "[B, A]");
  const std::int64_t batch = d_q.shape[0], actions = d_q.shape[1];
  return with_real(d_q, [&]<class Real>(Real) -> py::object {
    const auto from = d_q.as<const Real, 2>("[B, A]");
    py::object d_value, d_advantage;
    const auto v = border.template result<Real, 2>(d_value, args[1], location, {batch, 1}, "d_value", "[B, 1]");
    const auto a = border.template result<Real, 2>(d_advantage, args[2], location, {batch, actions}, "d_advantage", "[B, A]", &d_q);
    {
      ReleaseGil released;
      nn::dueling_backward<Real>(from, v, a);
    }
    return py::make_tuple(std::move(d_value), std::move(d_advantage));
  });
}

// Reads what forward and backward share.
template <class Real>
nn::SquashedGaussian<Real> squashed_args(const ArrayArg& output, const ArrayArg& noise, double low, double high) {
  const std::int64_t batch = output.shape[0], width = output.shape[1] / 2;
  PYRL_CHECK(output.shape[1] == 2 * width, ShapeError, output.function, ": output has shape ", output.shape_text(), ", expected [B, 2 A]");
  return {output.as<const Real, 2>("[B, 2 A]"), noise.as<const Real, 2>({batch, width}, "[B, A]"), low, high};
}

// (low, high)
std::array<double, 2> log_std_range_arg(const Arg& arg) {
  const auto [low_arg, high_arg] = pair_arg(arg, "(low, high)");
  const double low = number_arg(low_arg, arg.function, "log_std_range[0]");
  return {low, number_in(high_arg, low, infinity, arg.function, "log_std_range[1]")};
}

// (output, noise, log_std_range, out) -> (action, log_prob)
py::object squashed_gaussian(FastArgs args) {
  const char* function = "squashed_gaussian";
  Border border(function);
  const ArrayArg output = border.input(args[0]);
  const Location location = real_location(output.kind, output);
  const ArrayArg noise = border.input(args[1], location);
  output.require_rank(2, "[B, 2 A]");
  const auto [low, high] = log_std_range_arg(args[2]);
  const auto [action_out, log_prob_out] = pair_if_given(args[3], "(action, log_prob)");
  return with_real(output, [&]<class Real>(Real) -> py::object {
    const auto call = squashed_args<Real>(output, noise, low, high);
    py::object action, log_prob;
    const auto a = border.template result<Real, 2>(action, action_out, location, call.noise.extent, "out[0]", "[B, A]");
    const auto l = border.template result<Real, 1>(log_prob, log_prob_out, location, {output.shape[0]}, "out[1]", "[B]");
    double sum = 0;
    {
      ReleaseGil released;
      sum = nn::squashed_gaussian<Real>(call, a, l);
    }
    if (!std::isfinite(sum)) throw_non_finite<Real>({&output, &noise});
    return py::make_tuple(std::move(action), std::move(log_prob));
  });
}

// (output, noise, log_std_range, action, d_action or None, d_log_prob, d_output) -> d_output
py::object squashed_gaussian_backward(FastArgs args) {
  const char* function = "squashed_gaussian_backward";
  Border border(function);
  const ArrayArg output = border.input(args[0]);
  const Location location = real_location(output.kind, output);
  const ArrayArg noise = border.input(args[1], location), action = border.input(args[3], location);
  const ArrayArg d_action = border.optional(args[4], location);
  output.require_rank(2, "[B, 2 A]");
  const auto [low, high] = log_std_range_arg(args[2]);
  const double d_log_prob = finite_arg(args[5]);
  return with_real(output, [&]<class Real>(Real) -> py::object {
    const auto call = squashed_args<Real>(output, noise, low, high);
    const auto a = action.as<const Real, 2>(call.noise.extent, "[B, A]");
    const auto da = view_if_given<const Real, 2>(d_action, call.noise.extent, "[B, A]");
    py::object d_output;
    const auto out = border.template result<Real, 2>(d_output, args[6], location, call.output.extent, "d_output", "[B, 2 A]");
    double sum = 0;
    {
      ReleaseGil released;
      sum = nn::squashed_gaussian_backward<Real>(call, a, da, d_log_prob, out);
    }
    if (!std::isfinite(sum)) throw_non_finite<Real>({&output, &noise, &action, &d_action});
    return d_output;
  });
}

}  // namespace

PYRL_BINDINGS(losses, m) {
  def_fast<policy_loss, "policy_loss(output, nvec, log_std, action, log_prob_old, advantage, normalize_advantage, clip_range, ent_coef, d_output, d_log_std)">(m);
  def_fast<value_loss, "value_loss(value, return_, value_old, weight, clip_range, coefficient, huber, d_value)">(m);
  def_fast<q_loss, "q_loss(q, action, reward, discount, next_q_target, next_q_online, weight, huber, d_q, td_error)">(m);
  def_fast<squashed_gaussian, "squashed_gaussian(output, noise, log_std_range, out)">(m);
  def_fast<squashed_gaussian_backward, "squashed_gaussian_backward(output, noise, log_std_range, action, d_action, d_log_prob, d_output)">(m);
  def_fast<dueling, "dueling(value, advantage, out)">(m);
  def_fast<dueling_backward, "dueling_backward(d_q, d_value, d_advantage)">(m);
}
