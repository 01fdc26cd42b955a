// A prioritized replay's priorities, on the CPU or where its records lie.
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "bindings/real_arg.hpp"
#include "bindings/replay_core.hpp"

namespace pyrl::bindings {

using namespace pyrl::replay;

// (index, priority): nothing is changed if any priority is negative, not finite or above tree::most, unless they lie on a GPU, where nobody looks.
py::object update_priorities(ReplayCore& self, FastArgs args) {
  const char* function = "update_priorities";
  const CudaStream caller = self.caller_stream(function);
  Border border(function);
  const DeviceArray<std::int64_t> index(self, border, args[0], "index");
  const auto update = [&]<class Real>(Real) {
    const DeviceArray<Real> priority(self, border, args[1], "priority", index.count());
    std::vector<Real> checked;  // another thread may write to the array meanwhile
    if (!priority.is_there()) checked.assign(priority.data(), priority.data() + index.count());
    for (std::size_t i = 0; i < checked.size(); ++i) {
      const Real value = checked[i];
      PYRL_CHECK(std::isfinite(value), NonFiniteError, function, ": priority of element ", i, " is ", value, ", expected a finite number");
      PYRL_CHECK(value >= 0, ArgumentError, function, ": priority of element ", i, " is ", value, ", expected at least 0");
      PYRL_CHECK(static_cast<double>(value) <= tree::most, ArgumentError, function, ": priority of element ", i, " is ", value, ", expected at most ", tree::most,
                 ", so that the sum of all is finite");
    }
    void* space = nullptr;
    const py::object owner = self.device ? self.workspace(8 * index.count(), &space) : py::object();
    alone(self, [&] {
      if (self.device)
        return self.device->update_priorities(index.upload(self, caller), priority.upload(self, caller), index.count(), static_cast<std::int64_t*>(space), caller);
      self.slots.resize(static_cast<std::size_t>(index.count()));
      self.stale_updates += self.ring->find(index.data(), index.count(), self.slots.data());
      self.priorities->update(self.slots.data(), checked.data(), index.count());
    });
  };
  with_real(read_array(args[1], function, "priority"), update);
  return py::none();
}

// float64 [B]: the leaves of named records, 0 where they cannot be drawn.
py::array_t<double> priorities(ReplayCore& self, py::handle index_arg) {
  const Call call = Call::long_one(&index_arg.ptr(), 1);
  const auto index = read_array(index_arg, "priorities", "index").as<const std::int64_t, 1>("[B]");
  const CudaStream caller = self.caller_stream("priorities");
  py::array_t<double> found(index.extent[0]);
  double* to = found.mutable_data();
  alone(self, [&] {
    self.slots.resize(static_cast<std::size_t>(index.extent[0]));
    self.metadata(caller).find(index.data, index.extent[0], self.slots.data());
    const std::vector<double> leaves = self.device ? self.leaves(caller) : std::vector<double>{};
    const auto leaf = [&](std::int64_t slot) { return self.device ? leaves[static_cast<std::size_t>(slot)] : self.priorities->tree().get(slot); };
    std::transform(self.slots.begin(), self.slots.end(), to, [&](std::int64_t slot) { return slot < 0 ? 0.0 : leaf(slot); });
  });
  return found;
}

double total_priority(ReplayCore& self) {
  const CudaStream caller = self.caller_stream("total_priority");
  return alone(self, [&] {
    if (!self.device) return self.priorities->tree().total();
    const std::vector<double> leaves = self.leaves(caller);
    SumTree tree(self.ring->num_slots());
    for (std::size_t slot = 0; slot < leaves.size(); ++slot) tree.set(static_cast<std::int64_t>(slot), leaves[slot]);
    return tree.total();
  });
}

// How many updates came for records that were gone, and how many on a GPU were negative or not finite.
std::pair<std::int64_t, std::int64_t> unused_updates(ReplayCore& self) {
  const CudaStream caller = self.caller_stream("stale_updates");
  return alone(self, [&] {
    if (!self.device) return std::pair{self.stale_updates, std::int64_t{0}};
    const UpdateCounts counts = self.device->update_counts(caller);
    return std::pair{counts.stale, counts.refused};
  });
}

}  // namespace pyrl::bindings
