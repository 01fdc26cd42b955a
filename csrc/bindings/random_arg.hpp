// How a kernel's binding takes a random stream, and a draw of it a call.
//
//   RandomObject& random = random_arg(args[2], function);
//   sampling::PermutationArgs call{out};
//   run_drawing(location, function, random, call.random, [&] { permutation(call); },
//               [&](const auto& stream) { permutation_cuda(call, space, stream); });
#pragma once

#include "bindings/array_arg.hpp"
#include "bindings/border.hpp"
#include "bindings/constructed.hpp"
#include "bindings/cuda_arg.hpp"
#include "core/own_stream.hpp"
#include "core/check.hpp"
#include "core/philox.hpp"

namespace pyrl::bindings {

// A RandomStream of Python: its state is in it, or in a tensor of two words, (key, draw). Those on a GPU are read by kernels alone.
class RandomObject {
 public:
  RandomObject(std::uint64_t key, std::uint64_t draw, py::object memory) : own_{key, draw}, memory_(std::move(memory)) {
    if (memory_.is_none()) return;
    device_ = read_array(memory_, "RandomStream", "memory").device;
    words();
    set_state(own_);
  }

  Device device() const { return device_; }
  const py::object& memory() const { return memory_; }
  // Null on a GPU.
  RandomStream* here() {
    RandomStream* const found = memory_.is_none() ? &own_ : device_.is_cpu() ? words() : nullptr;
    if (found != nullptr) owner_.claim(*found);
    return found;
  }
  // The words of the tensor, wherever it keeps them now.
  RandomStream* words() const {
    OutputArg arg = Border("RandomStream").output(memory_, "memory");
    PYRL_CHECK(location_of(arg).device == device_, DeviceError, "RandomStream: memory is on ", arg.device.text(), ", expected ", device_.text());
    return reinterpret_cast<RandomStream*>(arg.as<std::int64_t, 1>({2}, "(key, draw)").data);
  }

  // Waits for a GPU.
  RandomStream state() {
    if (const RandomStream* const found = here()) return *found;
    const auto words = memory_.attr("tolist")().cast<std::array<std::int64_t, 2>>();
    return {static_cast<std::uint64_t>(words[0]), static_cast<std::uint64_t>(words[1])};
  }
  void set_state(const RandomStream& state) {
    own_ = state;
    owner_.set();
    if (memory_.is_none()) return;
    words();  // checked again
    memory_[py::int_(0)] = static_cast<std::int64_t>(state.key);
    memory_[py::int_(1)] = static_cast<std::int64_t>(state.draw);
  }

 private:
  RandomStream own_;
  StreamOwner owner_;
  py::object memory_;
  Device device_;
};

}  // namespace pyrl::bindings

PYRL_CONSTRUCTED(::pyrl::bindings::RandomObject);

namespace pyrl::bindings {

inline RandomObject& random_arg(py::handle object, const char* function) {
  PYRL_CHECK(py::isinstance<RandomObject>(object), DTypeError, function, ": random is a ", Py_TYPE(object.ptr())->tp_name,
             ", expected a pyrl.RandomStream");
  return object.cast<RandomObject&>();
}

// run_at for a kernel that takes one draw, from `source`. The draw is taken before the interpreter lock is released, so that no other
// thread gets it too; a call that fails gives it back, unless another thread has drawn since. On a GPU it is taken after the kernel, there.
template <class OnCpu, class OnCuda>
void run_drawing(const Location& location, const char* function, RandomObject& random, DrawSource& source, const OnCpu& on_cpu,
                 const OnCuda& on_cuda) {
  RandomStream* const here = random.here();
  if (here == nullptr) {
    PYRL_CHECK(location.device == random.device(), DeviceError, function, ": random is on ", random.device().text(), ", expected ",
               location.device.text());
    RandomStream* const there = random.words();
    source = {0, 0, there};
    run_at(location, function, on_cpu, [&](const auto& stream) {
      on_cuda(stream);
      add_cuda(reinterpret_cast<std::int64_t*>(&there->draw), 1, stream);
    });
    return;
  }
  source = {here->key, here->next_draw(), nullptr};
  try {
    run_at(location, function, on_cpu, on_cuda);
  } catch (...) {
    if (here->draw == source.draw + 1) here->draw = source.draw;
    throw;
  }
}

}  // namespace pyrl::bindings
