// What the replay's binding keeps: the store, how rows come in, and what batches look like.
#pragma once

#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/array_arg.hpp"
#include "bindings/border.hpp"
#include "bindings/constructed.hpp"
#include "bindings/fast_call.hpp"
#include "bindings/row_reader.hpp"
#include "replay/store.hpp"

namespace pyrl::bindings {

class ReplayCore {
 public:
  using LeafSpec = std::tuple<std::string, std::string, std::vector<std::int64_t>>;  // name, dtype, shape

  // `columns`: the action, then the extra columns.
  ReplayCore(const std::vector<LeafSpec>& observation, const std::vector<LeafSpec>& columns, const replay::StreamOptions& options, std::uint64_t key);

  // The length of a window, as an int.
  static int window_arg(std::int64_t length, const char* function, const char* name);
  // What nbytes() of such a buffer will be, before anything is allocated.
  static std::int64_t forecast(const std::vector<LeafSpec>& observation, const std::vector<LeafSpec>& columns, const replay::StreamOptions& options,
                               bool prioritized, bool on_device, bool host_copy);

  // Moves the records to a device, "cuda:0"; the store must be empty.
  void move_to(const std::string& name, bool host_copy);
  // Switches to draws by priority; the store must be empty and keeps its place.
  void prioritize(double alpha, double epsilon);

  const replay::LaneRing& ring() const { return store->ring(); }
  // The stream of the caller's work, where there is a device. With the interpreter lock.
  CudaStream caller_stream(const char* function) const { return location.device.is_cuda() ? device_stream(function) : CudaStream{function}; }
  // Where a batch goes, and as what: tensors, if `torch` or if it goes to a GPU.
  Location batch_location(py::handle torch) const {
    return location.device.is_cuda() ? location : Location(torch.ptr() == Py_True ? Kind::Torch : Kind::NumPy);
  }
  replay::WindowLengths default_window() const { return {ring().options().n_step, ring().options().frame_stack}; }

  const std::vector<Leaf>& observation() const { return observation_; }
  const std::vector<Leaf>& columns() const { return columns_; }
  // What a checkpoint holds of each slot, the reward first; the leaves are those of the columns.
  std::vector<replay::Column> stored_columns() const;
  std::vector<Leaf> stored_leaves() const;

  std::unique_ptr<replay::Store> store;
  Location location{Kind::NumPy};                      // of records, batches and rows on a device
  std::vector<std::unique_ptr<RowScratch>> idle_rows;  // of adds, under the interpreter lock
  std::size_t all_rows = 0;                            // idle or not
  std::vector<RowReader> observation_readers, next_observation_readers, column_readers;
  RowReader reward_reader, terminated_reader, truncated_reader, valid_reader;
  std::vector<py::str> extra_names;  // of the columns after the action
  // The arrays of a batch, as messages about `out` name them.
  std::vector<Leaf> out_observation, out_next_observation, out_columns;
  Leaf out_reward{"out.reward", DType::Float32, {}}, out_terminated{"out.terminated", DType::Bool, {}}, out_discount{"out.discount", DType::Float32, {}},
      out_index{"out.index", DType::Int64, {}};

 private:
  CudaStream device_stream(const char* function) const;

  std::vector<Leaf> observation_, columns_;
  std::uint64_t process_ = 0;  // that a device's store belongs to
};

// Where records are on a device, the body may wait for it.
template <class Body>
auto alone(const ReplayCore& self, const Body& body, ReleaseGil::When when = ReleaseGil::When::long_calls) {
  return alone(self.store->lock(), body, self.location.device.is_cuda() ? ReleaseGil::When::always : when);
}

// Working memory of a call, to hold until its work is on the stream.
struct Workspace {
  Workspace(const ReplayCore& self, std::int64_t bytes);

  void* data = nullptr;
  py::object owner;
};

// An array [B] that a store reads: from where the records are, or from host memory, uploaded there if that is elsewhere.
template <class T>
class DeviceArray {
 public:
  DeviceArray(const ReplayCore& self, Border& border, py::handle object, const char* name, std::int64_t count = -1) {
    ArrayArg arg = border.input(object, name);
    is_there_ = !arg.on_cpu() && self.location.device.is_cuda();
    if (is_there_) arg = border.input(object, name, self.location);
    view_ = arg.as<const T, 1>({count}, "[B]");
    view_.extent[0] = arg.shape[0];
  }

  // On the device.
  bool is_there() const { return is_there_; }
  std::int64_t count() const { return view_.extent[0]; }
  std::int64_t bytes() const { return static_cast<std::int64_t>(sizeof(T)) * count(); }
  const T* data() const { return view_.data; }
  // Without the interpreter lock; `workspace` of bytes().
  const T* upload(replay::Store& store, const Workspace& workspace, const CudaStream& caller) const {
    return is_there_ ? view_.data : static_cast<const T*>(store.upload(view_.data, bytes(), workspace.data, caller));
  }

 private:
  ArrayView<const T, 1> view_;
  bool is_there_ = false;
};

// The arrays of a batch: fresh, or those of `out`. Either way `fields` holds (observation, action, reward, next_observation, terminated,
// discount, index, extra): an observation of several leaves is a tuple, `extra` a dict by name, or None where there are no further columns.
class Outputs {
 public:
  Outputs(Border& border, const ReplayCore& core, std::int64_t count, const replay::WindowLengths& window, const Location& location, py::handle out);

  py::tuple fields{8};
  replay::GatherArgs gather;
  std::int64_t* index = nullptr;

 private:
  std::vector<void*> data_;  // observations, next observations, columns
};

// ArgumentError unless `missing`, the number of the first index that is not drawable, is -1. `index`: in host memory, or null.
void check_drawable(const char* function, const std::int64_t* index, std::int64_t missing, const replay::WindowLengths& window = {});

// replay_state.cpp: a checkpoint's arrays.
py::dict replay_state(ReplayCore& self);
void set_replay_state(ReplayCore& self, const py::dict& saved);

// replay_rows.cpp
py::object add(ReplayCore& self, FastArgs args);
py::object extend(ReplayCore& self, FastArgs args);

// replay_priorities.cpp
py::object update_priorities(ReplayCore& self, FastArgs args);
py::object weight(ReplayCore& self, FastArgs args);
py::array_t<double> priorities(ReplayCore& self, py::handle index);
double total_priority(ReplayCore& self);
std::pair<std::int64_t, std::int64_t> unused_updates(ReplayCore& self);

// replay_hindsight.cpp: of records in host memory.
// [B, ...]: one column of these transitions, by its name in a checkpoint; "next_" before an observation: of the next slot.
py::object read_column(ReplayCore& self, const std::string& name, py::handle index);
// [B, n_step]: the transitions of the windows from these on, -1 after a window's end.
py::array_t<std::int64_t> steps(ReplayCore& self, py::handle index, std::int64_t n_step);
// [B]: the transitions whose achieved goal takes the place of the desired one, -1: none. Takes a draw.
py::array_t<std::int64_t> goals(ReplayCore& self, py::handle index, const std::string& strategy, double share);

}  // namespace pyrl::bindings

PYRL_CONSTRUCTED(::pyrl::bindings::ReplayCore);
