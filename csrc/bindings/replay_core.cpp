#include "bindings/replay_core.hpp"

#include "bindings/cuda_arg.hpp"
#include "bindings/tensor_arg.hpp"

namespace pyrl::bindings {

using namespace pyrl::replay;

void ReplayCore::move_to(const std::string& name, bool copied) {
  PYRL_CHECK(device == nullptr && !is_prioritized(), ArgumentError, "ReplayBuffer: its records have their place already");
  CudaStream caller{"ReplayBuffer", std::stoi(name.substr(name.find(':') + 1))};
  const Location there(Kind::Torch, Device{caller.device}, "this buffer");
  std::unique_ptr<RingDevice> made;
  if constexpr (cuda_built) made = cuda_ring_device(caller.device);
  PYRL_CHECK(made != nullptr, DeviceError, "ReplayBuffer: device is ", name, ", and this build of pyrl has no CUDA; build it with PYRL_CUDA=ON (docs/cuda.md)");
  caller.handle = current_stream(there.device);
  auto moved = std::make_unique<DeviceRing>(*ring, std::move(made), caller);
  moved->set_random(stream, caller);
  device = std::move(moved);
  location = there;
  process = lineage();
  host_copy = copied;
  outcome.resize(static_cast<std::size_t>(ring->options().num_lanes));
}

void ReplayCore::prioritize(double alpha, double epsilon) {
  PYRL_CHECK(alpha >= 0 && alpha <= 1, ArgumentError, "PrioritizedReplayBuffer: alpha is ", alpha, ", expected a number in [0, 1]");
  PYRL_CHECK(epsilon >= tree::least && epsilon <= tree::most, ArgumentError, "PrioritizedReplayBuffer: epsilon is ", epsilon, ", expected a number in [", tree::least,
             ", ", tree::most, "]");
  PYRL_CHECK(!is_prioritized() && ring->filled() == 0, ArgumentError, "PrioritizedReplayBuffer: the core is prioritized or filled already, expected a new one");
  if (device != nullptr) return device->prioritize({alpha, epsilon}, caller_stream("PrioritizedReplayBuffer"));
  auto made = std::make_unique<PrioritizedSelector>(ring->num_slots(), PriorityOptions{alpha, epsilon});
  alone(*this, [&] {
    priorities = std::move(made);
    ring->set_observer(priorities.get());
  });
}

CudaStream ReplayCore::device_stream(const char* function) const {
  PYRL_CHECK(lineage() == process, DeviceError, function, ": this buffer's records lie on ", location.device.text(),
             " in the process that forked this one; nothing of CUDA can be used in a forked child, start it with spawn");
  return {function, location.device.number, current_stream(location.device)};
}

py::object ReplayCore::workspace(std::int64_t bytes, void** data) const {
  return device_space(location, bytes, data);
}

std::int64_t ReplayCore::store_there(const AddArgs& rows, bool on_device, const CudaStream& caller) {
  if (on_device) {
    device->add_arrays(rows, caller);
    return -1;
  }
  if (host_copy) device->make_room(caller);  // before the ring changes
  AddArgs given = rows;
  given.outcome = host_copy ? outcome.data() : nullptr;
  const std::int64_t bad = host_copy ? ring->add(given) : given.first_bad_reward(ring->options().num_lanes);
  if (bad < 0) device->add(given, given.outcome, caller);
  return bad;
}

std::int64_t ReplayCore::size(const CudaStream& caller, std::int64_t enough) {
  if (!is_resident()) return ring->size();
  return device->least_size() >= enough ? device->least_size() : device->size(caller);
}

const LaneRing& ReplayCore::metadata(const CudaStream& caller) {
  if (is_resident()) device->download(*ring, false, caller);
  return *ring;
}

RandomStream ReplayCore::random(const CudaStream& caller) {
  if (device != nullptr) return device->random(caller);
  stream_owner.claim(stream);
  return stream;
}

void ReplayCore::set_random(const RandomStream& random, const CudaStream& caller) {
  stream = random;
  stream_owner.set();
  if (device != nullptr) device->set_random(random, caller);
}

RandomStream ReplayCore::next_draw(const CudaStream& caller) {
  RandomStream following = random(caller);
  const RandomStream drawn{following.key, following.next_draw()};
  set_random(following, caller);
  return drawn;
}

std::vector<double> ReplayCore::leaves(const CudaStream& caller) {
  if (device != nullptr) return device->leaves(caller);
  std::vector<double> leaves(static_cast<std::size_t>(ring->num_slots()));
  for (std::int64_t slot = 0; slot < ring->num_slots(); ++slot) leaves[static_cast<std::size_t>(slot)] = priorities->tree().get(slot);
  return leaves;
}

void ReplayCore::set_leaves(const std::vector<double>& leaves, const CudaStream& caller) {
  if (device != nullptr) return device->set_leaves(leaves, caller);
  priorities->cleared();
  for (std::int64_t slot = 0; slot < ring->num_slots(); ++slot) priorities->set(slot, leaves[static_cast<std::size_t>(slot)]);
}

}  // namespace pyrl::bindings
