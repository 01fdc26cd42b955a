// Indices, permutations, actions and running moments.
#include <array>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "bindings/array_arg.hpp"
#include "bindings/border.hpp"
#include "bindings/cuda_arg.hpp"
#include "bindings/fast_call.hpp"
#include "bindings/nvec_arg.hpp"
#include "bindings/random_arg.hpp"
#include "bindings/real_arg.hpp"
#include "bindings/registry.hpp"
#include "sampling/categorical.hpp"
#include "sampling/gaussian.hpp"
#include "sampling/parallel_shuffle.hpp"
#include "sampling/permutation.hpp"
#include "sampling/running_moments.hpp"
#include "sampling/uniform_indices.hpp"

namespace py = pybind11;
using namespace pyrl;
using namespace pyrl::bindings;

namespace {

// (size, high, random, replacement, out)
py::object uniform_indices(FastArgs args) {
  const char* function = "uniform_indices";
  const std::int64_t size = integer_arg(args[0]), high = integer_arg(args[1]);
  PYRL_CHECK(size >= 0 && size <= (std::int64_t{1} << 33), ArgumentError, function, ": size is ", size, ", expected 0 to 2^33");
  PYRL_CHECK(high >= 1 || (size == 0 && high == 0), ArgumentError, function, ": high is ", high, ", expected at least 1");
  RandomObject& random = random_arg(args[2], function);
  const bool replacement = flag_arg(args[3]);
  PYRL_CHECK(replacement || size <= high, ArgumentError, function, ": size is ", size, ", expected at most high = ", high,
             " without replacement");
  const Location location = location_of_output(args[4], function, "out");
  PYRL_CHECK(replacement || location.device.is_cpu() || size < std::int64_t{1} << 32, ArgumentError, function, ": size is ", size,
             ", expected less than 2^32 without replacement on a GPU");
  py::object result, space;
  const auto index = Border(function).result<std::int64_t, 1>(result, args[4], location, {size}, "out", "[size]");
  void* memory = nullptr;
  if (location.device.is_cuda() && !replacement) space = device_space(location, sampling::Moves::bytes(size), &memory);
  sampling::UniformIndicesArgs call{index, static_cast<std::uint64_t>(high), {}};
  run_drawing(location, function, random, call.random,
              [&] { replacement ? sampling::uniform_indices(call) : sampling::distinct_indices(call); },
              [&](const auto& stream) {
                replacement ? sampling::uniform_indices_cuda(call, stream) : sampling::distinct_indices_cuda(call, memory, stream);
              });
  return result;
}

// (n, random, out)
py::object permutation(FastArgs args) {
  const char* function = "permutation";
  const std::int64_t n = integer_arg(args[0]);
  PYRL_CHECK(n >= 0 && n < (std::int64_t{1} << 32), ArgumentError, function, ": n is ", n, ", expected 0 to 2^32 - 1");
  RandomObject& random = random_arg(args[1], function);
  const Location location = location_of_output(args[2], function, "out");
  py::object result, space;
  const auto out = Border(function).result<std::int64_t, 1>(result, args[2], location, {n}, "out", "[n]");
  void* memory = nullptr;
  if (location.device.is_cuda()) space = device_space(location, sampling::Moves::bytes(n), &memory);
  sampling::PermutationArgs call{out, {}};
  run_drawing(location, function, random, call.random, [&] { sampling::permutation(call); },
              [&](const auto& stream) { sampling::permutation_cuda(call, memory, stream); });
  return result;
}

// Reads and checks what both forms share; the caller sets nvec and action.
struct CategoricalCall {
  Border border;
  ArrayArg logits;
  Location location;
  ArrayArg mask;
  RandomObject& random;
  sampling::CategoricalArgs args;

  CategoricalCall(const char* function, py::handle logits_object, py::handle mask_object, py::handle random_object,
                  py::handle deterministic)
      : border(function), logits(border.input(logits_object, "logits")), location(location_of(logits)), random(random_arg(random_object, function)) {
    args.function = function;
    args.logits = logits.as<const float, 2>("[B, K]");
    mask = border.optional(mask_object, "mask", location);
    if (mask.given()) args.mask = mask.as<const bool, 2>({logits.shape[0], logits.shape[1]}, "[B, K]");
    args.deterministic = flag_arg(deterministic, function, "deterministic");
    PYRL_CHECK(logits.shape[0] <= (std::int64_t{1} << 32), ShapeError, function, ": logits has shape ", logits.shape_text(),
               ", expected at most 2^32 rows");
  }

  // The stream moves on only where a draw was made.
  void run() {
    const auto on_cpu = [&] { sampling::sample_categorical(args); };
    const auto on_cuda = [&](const auto& stream) { sampling::sample_categorical_cuda(args, stream); };
    args.deterministic ? run_at(location, args.function, on_cpu, on_cuda)
                       : run_drawing(location, args.function, random, args.random, on_cpu, on_cuda);
  }
};

// (logits, mask, random, deterministic, out)
py::object sample_categorical(FastArgs args) {
  const char* function = "sample_categorical";
  CategoricalCall call(function, args[0], args[1], args[2], args[3]);
  const std::int64_t batch = call.logits.shape[0], categories = call.logits.shape[1];
  PYRL_CHECK(categories >= 1, ShapeError, function, ": logits has shape ", call.logits.shape_text(), ", expected [B, K] with K at least 1");
  const auto [action_out, log_prob_out] = pair_if_given(args[4], "(action, log_prob)");
  py::object action, log_prob;
  const auto flat = call.border.result<std::int64_t, 1>(action, action_out, call.location, {batch}, "out[0]", "[B]");
  call.args.log_prob = call.border.result<float, 1>(log_prob, log_prob_out, call.location, {batch}, "out[1]", "[B]");
  call.args.action = {flat.data, {batch, 1}};
  call.args.nvec = {&categories, {1}};
  call.run();
  return py::make_tuple(std::move(action), std::move(log_prob));
}

// (logits, nvec, mask, random, deterministic, out)
py::object sample_multi_categorical(FastArgs args) {
  const char* function = "sample_multi_categorical";
  CategoricalCall call(function, args[0], args[2], args[3], args[4]);
  const std::vector<std::int64_t> nvec = nvec_arg(args[1], call.logits);
  const std::int64_t batch = call.logits.shape[0], components = static_cast<std::int64_t>(nvec.size());
  const auto [action_out, log_prob_out] = pair_if_given(args[5], "(action, log_prob)");
  py::object action, log_prob;
  call.args.action = call.border.result<std::int64_t, 2>(action, action_out, call.location, {batch, components}, "out[0]", "[B, M]");
  call.args.log_prob = call.border.result<float, 1>(log_prob, log_prob_out, call.location, {batch}, "out[1]", "[B]");
  call.args.nvec = {nvec.data(), {components}};
  call.run();
  return py::make_tuple(std::move(action), std::move(log_prob));
}

// (mean, log_std, random, deterministic, out)
py::object sample_gaussian(FastArgs args) {
  const char* function = "sample_gaussian";
  Border border(function);
  ArrayArg mean = border.input(args[0]);
  const Location location = location_of(mean);
  const ArrayArg log_std = border.input(args[1], location);
  RandomObject& random = random_arg(args[2], function);
  sampling::GaussianArgs call;
  call.mean = mean.as<const float, 2>("[B, A]");
  const std::int64_t batch = mean.shape[0], dimensions = mean.shape[1];
  PYRL_CHECK(batch <= (std::int64_t{1} << 32), ShapeError, function, ": mean has shape ", mean.shape_text(),
             ", expected at most 2^32 rows");
  if (log_std.rank == 1) {
    call.log_std = {log_std.as<const float, 1>({dimensions}, "[A]").data, {1, dimensions}};
  } else {
    call.log_std = log_std.as<const float, 2>({batch, dimensions}, "[A] or [B, A]");
  }
  call.deterministic = flag_arg(args[3]);
  const auto [action_out, log_prob_out] = pair_if_given(args[4], "(action, log_prob)");
  py::object action, log_prob;
  call.action = border.result<float, 2>(action, action_out, location, {batch, dimensions}, "out[0]", "[B, A]");
  call.log_prob = border.result<float, 1>(log_prob, log_prob_out, location, {batch}, "out[1]", "[B]");
  const auto on_cpu = [&] { sampling::sample_gaussian(call); };
  const auto on_cuda = [&](const auto& stream) { sampling::sample_gaussian_cuda(call, stream); };
  call.deterministic ? run_at(location, function, on_cpu, on_cuda) : run_drawing(location, function, random, call.random, on_cpu, on_cuda);
  return py::make_tuple(std::move(action), std::move(log_prob));
}

// count (int64 []), mean and m2 (float64, shaped like an item) are the arrays of one RunningMoments; they are on the batch's device.
// `Moment` is OutputArg where they are changed.
template <class Moment>
struct MomentsCall {
  Border border;
  ArrayArg batch;
  Location location;
  Moment mean, m2;
  std::int64_t rows = 1;
  sampling::Moments moments;

  MomentsCall(const char* function, const char* name, py::handle batch_object, py::handle count_object, py::handle mean_object,
              py::handle m2_object)
      : border(function), batch(border.input(batch_object, name)), location(location_of(batch)), mean(read(mean_object, "mean")), m2(read(m2_object, "m2")) {
    const int leading = batch.rank - mean.rank;
    bool matches = leading >= 0;
    for (int axis = 0; matches && axis < mean.rank; ++axis) matches = batch.shape[leading + axis] == mean.shape[axis];
    if (!matches) {
      const std::string item = mean.shape_text();
      throw ShapeError(
          concat(function, ": ", name, " has shape ", batch.shape_text(), ", expected [...", item.size() > 2 ? ", " : "", item.substr(1)));
    }
    for (int axis = 0; axis < leading; ++axis) rows *= batch.shape[axis];
    moments.count = const_cast<std::int64_t*>(read(count_object, "count").template as<const std::int64_t, 0>("[]").data);
    moments.mean = flat(mean);
    moments.m2 = flat(m2);
    PYRL_CHECK(batch.dtype == DType::Float32 || batch.dtype == DType::Float64, DTypeError, function, ": ", name, " has dtype ",
               batch.dtype_text(), ", expected float32 or float64");
    batch.require_contiguous();
  }

  template <class T>
  ArrayView<const T, 2> view() const {
    return {static_cast<const T*>(batch.data), {rows, mean.size()}};
  }

 private:
  Moment read(py::handle object, const char* name) {
    if constexpr (std::is_same_v<Moment, OutputArg>) {
      return border.output(object, name, location);
    } else {
      return border.input(object, name, location);
    }
  }
  static ArrayView<double, 1> flat(const ArrayArg& arg) {
    arg.require_device();
    arg.require_dtype(DType::Float64);
    arg.require_contiguous();
    return {static_cast<double*>(arg.data), {arg.size()}};
  }
};

// (batch, count, mean, m2)
py::object update_moments(FastArgs args) {
  const char* function = "RunningMoments.update";
  MomentsCall<OutputArg> call(function, "batch", args[0], args[1], args[2], args[3]);
  py::object space;
  void* memory = nullptr;
  if (call.location.device.is_cuda()) space = device_space(call.location, sampling::moments_space(call.rows, call.mean.size()), &memory);
  with_real(call.batch, [&]<class T>(T) {
    const auto view = call.template view<T>();
    run_at(call.location, function, [&] { sampling::update_moments(view, call.moments); },
           [&](const auto& stream) { sampling::update_moments_cuda(view, call.moments, memory, stream); }, &lock_of(call.mean.data));
  });
  return py::none();
}

// (x, count, mean, m2, clip, epsilon, center, out)
py::object normalize(FastArgs args) {
  const char* function = "RunningMoments.normalize";
  MomentsCall<ArrayArg> call(function, "x", args[0], args[1], args[2], args[3]);
  const double clip = args[4].is_none() ? infinity : number_in(args[4], 0, infinity);
  const double epsilon = number_in(args[5], 0, infinity);
  const bool center = flag_arg(args[6]);
  const std::span<const std::int64_t> shape(call.batch.shape.data(), static_cast<std::size_t>(call.batch.rank));
  py::object result;
  void* const data = call.border.result(result, args[7], call.location, DType::Float32, shape, "out", "the shape of x", &call.batch);
  const ArrayView<float, 2> out{static_cast<float*>(data), {call.rows, call.mean.size()}};
  with_real(call.batch, [&]<class T>(T) {
    const sampling::NormalizeArgs<T> normalize_args{call.template view<T>(), out, call.moments, clip, epsilon, center};
    run_at(call.location, function, [&] { sampling::normalize(normalize_args); },
           [&](const auto& stream) { sampling::normalize_cuda(normalize_args, stream); }, &lock_of(call.mean.data));
  });
  return result;
}

}  // namespace

PYRL_BINDINGS(sampling, m) {
  def_fast<uniform_indices, "uniform_indices(size, high, random, replacement, out)">(m);
  def_fast<permutation, "permutation(n, random, out)">(m);
  def_fast<sample_categorical, "sample_categorical(logits, mask, random, deterministic, out)">(m);
  def_fast<sample_multi_categorical, "sample_multi_categorical(logits, nvec, mask, random, deterministic, out)">(m);
  def_fast<sample_gaussian, "sample_gaussian(mean, log_std, random, deterministic, out)">(m);
  def_fast<update_moments, "RunningMoments.update_moments(batch, count, mean, m2)">(m);
  def_fast<normalize, "RunningMoments.normalize(x, count, mean, m2, clip, epsilon, center, out)">(m);
}
