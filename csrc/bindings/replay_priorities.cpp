// A prioritized replay's priorities, on the CPU or where its records are.
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "bindings/real_arg.hpp"
#include "bindings/replay_core.hpp"

namespace pyrl::bindings {

using namespace pyrl::replay;

// (index, priority): nothing is changed if any priority is negative, not finite or above tree::most, unless they are on a GPU: there they are left out, and counted.
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
    const Workspace workspace(self, self.store->workspace_bytes(index.count())), index_there(self, index.bytes()), priority_there(self, priority.bytes());
    alone(self, [&] {
      Store& store = *self.store;
      const Real* const given = priority.is_there() ? priority.data() : static_cast<const Real*>(store.upload(checked.data(), priority.bytes(), priority_there.data, caller));
      store.update(index.upload(store, index_there, caller), given, index.count(), workspace.data, caller);
    });
  };
  with_real(read_array(args[1], function, "priority"), update);
  return py::none();
}

// (index, beta, weight_by_buffer, torch) -> float32 [B]: the importance weights of these records, as a batch.
py::object weight(ReplayCore& self, FastArgs args) {
  const CudaStream caller = self.caller_stream("weight");
  Border border("weight");
  const DeviceArray<std::int64_t> index(self, border, args[0], "index");
  Selection selection{index.count(), true, number_in(args[1], 0, 1), args[2].ptr() == Py_True};
  py::object made;
  selection.weight = allocate<float, 1>(made, self.batch_location(args[3]), {index.count()}).data;
  const Workspace workspace(self, self.store->workspace_bytes(index.count())), uploaded(self, index.bytes());
  const std::int64_t missing =
      alone(self, [&] { return self.store->weigh(selection, index.upload(*self.store, uploaded, caller), workspace.data, caller); });
  check_drawable("weight", index.is_there() ? nullptr : index.data(), missing);
  return made;
}

// float64 [B]: the leaves of these records, 0 where they cannot be drawn.
py::array_t<double> priorities(ReplayCore& self, py::handle index_arg) {
  const Call call = Call::long_one(&index_arg.ptr(), 1);
  const auto index = read_array(index_arg, "priorities", "index").as<const std::int64_t, 1>("[B]");
  const CudaStream caller = self.caller_stream("priorities");
  py::array_t<double> found(index.extent[0]);
  double* to = found.mutable_data();
  alone(self, [&] {
    std::vector<std::int64_t> slots(static_cast<std::size_t>(index.extent[0]));
    self.store->metadata(caller).find(index.data, index.extent[0], 1, slots.data());
    self.store->leaves_of(slots, to, caller);
  });
  return found;
}

double total_priority(ReplayCore& self) {
  const CudaStream caller = self.caller_stream("total_priority");
  return alone(self, [&] { return self.store->total_priority(caller); });
}

// How many updates came for records that were gone, and how many on a GPU were negative or not finite.
std::pair<std::int64_t, std::int64_t> unused_updates(ReplayCore& self) {
  const CudaStream caller = self.caller_stream("stale_updates");
  return alone(self, [&] {
    const UnusedUpdates unused = self.store->unused_updates(caller);
    return std::pair{unused.stale, unused.refused};
  });
}

}  // namespace pyrl::bindings
