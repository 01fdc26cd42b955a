// What calls of acting share: the outputs of a network for a batch of observations, and the draws of a stream.
#pragma once

#include <utility>
#include <vector>

#include "bindings/array_arg.hpp"
#include "bindings/border.hpp"
#include "bindings/fast_call.hpp"
#include "bindings/network_core.hpp"
#include "bindings/random_arg.hpp"
#include "nn/value_loss.hpp"
#include "sampling/running_moments.hpp"

namespace pyrl::bindings {

// Moments that normalise observations, as `pyrl.ops.acting.Moments` has them: (count, mean, m2, clip or None, epsilon).
class MomentsArg {
 public:
  bool present() const { return moments_.count != nullptr; }

  // For rows of `columns` numbers.
  void read(Border& border, py::handle object, std::int64_t columns, const char* function) {
    PYRL_CHECK(PyTuple_Check(object.ptr()) && PyTuple_GET_SIZE(object.ptr()) == 5, DTypeError, function, ": moments is a ", Py_TYPE(object.ptr())->tp_name,
               ", expected None or a tuple (count, mean, m2, clip, epsilon)");
    const auto item = [&](Py_ssize_t i) { return py::handle(PyTuple_GET_ITEM(object.ptr(), i)); };
    const auto doubles = [&](Py_ssize_t i, const char* name) {
      return const_cast<double*>(border.input(item(i), name).as<const double, 1>({columns}, "[D]").data);
    };
    moments_.count = const_cast<std::int64_t*>(border.input(item(0), "moments.count").as<const std::int64_t, 0>("[]").data);
    moments_.mean = {doubles(1, "moments.mean"), {columns}};
    moments_.m2 = {doubles(2, "moments.m2"), {columns}};
    clip_ = item(3).is_none() ? infinity : number_in(item(3), 0, infinity, function, "moments.clip");
    epsilon_ = number_in(item(4), 0, infinity, function, "moments.epsilon");
  }

  // [batch, columns] -> `memory`
  template <class T>
  const float* normalize(const T* rows, std::int64_t batch, std::vector<float>& memory) const {
    const std::int64_t columns = moments_.mean.size();
    memory.resize(static_cast<std::size_t>(batch * columns));
    const sampling::NormalizeArgs<T> call{{rows, {batch, columns}}, {memory.data(), {batch, columns}}, moments_, clip_, epsilon_};
    alone(lock_of(moments_.mean.data), [&] { sampling::normalize(call); });
    return memory.data();
  }

 private:
  sampling::Moments moments_;
  double clip_ = infinity, epsilon_ = 0;
};

// The outputs of a network for a batch of observations.
struct ActingCall {
  Border border;
  const char* function;
  NetworkCore *value_ = nullptr, *advantage_ = nullptr;  // of a dueling network
  std::int64_t batch = 0, width = 0;                     // of the outputs
  NetworkCore& core;                                     // which reads the observation
  ArrayView<const bool, 2> mask;

  // args[0]: a network, or those of a dueling one: (value, advantage) or (value, advantage, trunk).
  ActingCall(const char* name, FastArgs args) : border(name), function(name), core(read_networks(args[0])), parameters_(read_arena(args[1])) {
    observation_ = border.input(args[2]);
    observation_.require_cpu();
    PYRL_CHECK(observation_.kind == Kind::NumPy, DTypeError, function, ": observation is a torch tensor, expected a NumPy array");
    observation_.require_rank(2, "[N, D]");
    observation_.require_contiguous();
    batch = observation_.shape[0];
    PYRL_CHECK(observation_.shape[1] == core.in, ShapeError, function, ": observation has shape ", observation_.shape_text(), ", expected [N, ", core.in,
               "] (the network's inputs)");
    PYRL_CHECK(batch <= (std::int64_t{1} << 32), ShapeError, function, ": observation has shape ", observation_.shape_text(), ", expected at most 2^32 rows");
    if (args[3].is_none()) {
      observation_.require_dtype(core.dtype);
    } else {
      read_moments(args[3]);
    }
    if (!args[4].is_none()) mask = border.input(args[4]).as<const bool, 2>({batch, width}, "[N, M]");
  }

  // [N, width], in memory of this call.
  template <class Real>
  ArrayView<const Real, 2> outputs(std::vector<Real>& memory) {
    memory.resize(static_cast<std::size_t>(batch * width));
    std::vector<float> normalized;
    const auto* x = static_cast<const Real*>(observation_.data);
    if constexpr (std::is_same_v<Real, float>) {
      if (moments_.present()) {
        const bool single = observation_.dtype == DType::Float32;
        x = single ? moments_.normalize(static_cast<const float*>(observation_.data), batch, normalized)
                   : moments_.normalize(static_cast<const double*>(observation_.data), batch, normalized);
      }
    }
    if (advantage_ == nullptr) {
      infer(core, x, memory.data());
      return {memory.data(), {batch, width}};
    }
    std::vector<Real> hidden, value(static_cast<std::size_t>(batch)), advantage(memory.size());
    if (&core != value_) {
      hidden.resize(static_cast<std::size_t>(batch * core.out));
      infer(core, x, hidden.data());
      x = hidden.data();
    }
    infer(*value_, x, value.data());
    infer(*advantage_, x, advantage.data());
    nn::dueling<Real>({value.data(), {batch, 1}}, {advantage.data(), {batch, width}}, {memory.data(), {batch, width}});
    return {memory.data(), {batch, width}};
  }

 private:
  template <class Real>
  void infer(NetworkCore& network, const Real* x, Real* out) {
    alone(network.lock, [&] { std::get<nn::Network<Real>>(network.network).infer(static_cast<const Real*>(parameters_), {x, network.in}, batch, out); });
  }

  NetworkCore& network_of(py::handle object) const {
    PYRL_CHECK(py::isinstance<NetworkCore>(object), DTypeError, function, ": network is a ", Py_TYPE(object.ptr())->tp_name, ", expected a NetworkCore");
    return object.cast<NetworkCore&>();
  }

  NetworkCore& read_networks(py::handle object) {
    if (!PyTuple_Check(object.ptr())) {
      NetworkCore& only = network_of(object);
      width = only.out;
      return only;
    }
    const Py_ssize_t count = PyTuple_GET_SIZE(object.ptr());
    PYRL_CHECK(count == 2 || count == 3, ShapeError, function, ": network is a tuple of ", count, ", expected (value, advantage) or (value, advantage, trunk)");
    const auto part = [&](Py_ssize_t i) { return &network_of(PyTuple_GET_ITEM(object.ptr(), i)); };
    value_ = part(0), advantage_ = part(1);
    NetworkCore* const first = count == 3 ? part(2) : value_;
    width = advantage_->out;
    for (const NetworkCore* stream : {value_, advantage_})
      PYRL_CHECK(stream->dtype == first->dtype && stream->in == (count == 3 ? first->out : first->in), ShapeError, function, ": a stream has ", stream->in,
                 " inputs of ", name_of(stream->dtype), ", expected ", count == 3 ? first->out : first->in, " of ", name_of(first->dtype));
    PYRL_CHECK(value_->out == 1, ShapeError, function, ": the network of values has ", value_->out, " outputs, expected 1");
    return *first;
  }

  const void* read_arena(const Arg& arg) {
    const ArrayArg arena = border.input(arg);
    if (advantage_ != nullptr) value_->arena(arena), advantage_->arena(arena);
    return core.arena(arena);
  }

  void read_moments(py::handle object) {
    PYRL_CHECK(observation_.dtype == DType::Float32 || observation_.dtype == DType::Float64, DTypeError, function, ": observation has dtype ",
               observation_.dtype_text(), ", expected float32 or float64");
    PYRL_CHECK(core.dtype == DType::Float32, DTypeError, function, ": the network is of float64, expected float32: what is normalised");
    moments_.read(border, object, core.in, function);
  }

  const void* parameters_;
  ArrayArg observation_;
  MomentsArg moments_;
};

// `count` draws of a stream, taken before the interpreter lock may be released. A call that fails gives them back, unless another thread has
// drawn since.
class Draws {
 public:
  Draws(RandomObject& random, const char* function, std::uint64_t count) : here_(random.here()), count_(count) {
    PYRL_CHECK(here_ != nullptr, DeviceError, function, ": random is on a GPU, expected the CPU");
    stream = *here_;
    here_->draw += count;
  }
  Draws(const Draws&) = delete;
  Draws& operator=(const Draws&) = delete;
  ~Draws() {
    if (!kept_ && here_->draw == stream.draw + count_) here_->draw = stream.draw;
  }
  void keep() { kept_ = true; }

  RandomStream stream;

 private:
  RandomStream* here_;
  std::uint64_t count_;
  bool kept_ = false;
};

// body(stream) with `count` draws of it.
template <class Body>
void with_draws(RandomObject& random, const char* function, std::uint64_t count, const Body& body) {
  Draws draws(random, function, count);
  {
    const ReleaseGil released;
    body(draws.stream);
  }
  draws.keep();
}

}  // namespace pyrl::bindings
