// What the replay's binding keeps: the ring, on the CPU or a GPU, how rows come in, and what batches look like.
#pragma once

#include <algorithm>
#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/array_arg.hpp"
#include "bindings/border.hpp"
#include "bindings/constructed.hpp"
#include "bindings/fast_call.hpp"
#include "bindings/own_stream.hpp"
#include "bindings/row_reader.hpp"
#include "core/philox.hpp"
#include "replay/gpu/ring.hpp"
#include "replay/lane_ring.hpp"
#include "replay/select/prioritized.hpp"
#include "replay/window/gather.hpp"

namespace pyrl::bindings {

class ReplayCore {
 public:
  using LeafSpec = std::tuple<std::string, std::string, std::vector<std::int64_t>>;  // name, dtype, shape

  // The length of a window, as an int.
  static int window_arg(std::int64_t length, const char* name) {
    constexpr std::int64_t most = std::int64_t{1} << 30;
    PYRL_CHECK(length >= 1, ArgumentError, "ReplayBuffer: ", name, " is ", length, ", expected at least 1");
    PYRL_CHECK(length <= most, ArgumentError, "ReplayBuffer: ", name, " is ", length, ", expected at most ", most);
    return static_cast<int>(length);
  }

  ReplayCore(const std::vector<LeafSpec>& observation, const std::vector<LeafSpec>& columns, const replay::StreamOptions& options, std::uint64_t key)
      : stream{key, 0} {
    const std::int64_t N = options.num_lanes, least = options.linked ? std::int64_t{options.n_step} + options.frame_stack : 1;
    PYRL_CHECK(N >= 1, ArgumentError, "ReplayBuffer: num_envs is ", N, ", expected at least 1");
    PYRL_CHECK(options.gamma >= 0 && options.gamma <= 1, ArgumentError, "ReplayBuffer: gamma is ", options.gamma, ", expected a number in [0, 1]");
    PYRL_CHECK(options.linked || (options.n_step == 1 && options.frame_stack == 1), ArgumentError,
               "ReplayBuffer: linked=False stores transitions without order, expected n_step=1 and frame_stack=1");
    PYRL_CHECK(options.capacity / N >= least, ArgumentError, "ReplayBuffer: capacity is ", options.capacity, ", expected at least ",
               N <= std::numeric_limits<std::int64_t>::max() / least ? std::to_string(N * least) : "2^63", " slots (num_envs * (n_step + frame_stack))");
    std::vector<replay::Column> layout;
    for (const LeafSpec& spec : observation) {
      observation_.push_back(leaf_of(spec));
      next_observation_readers.emplace_back(renamed(observation_.back(), "next_" + observation_.back().name), N);
      observation_readers.emplace_back(observation_.back(), N);
      layout.push_back({observation_.back().row_bytes(), size_of(observation_.back().dtype), true});
    }
    for (const Leaf& leaf : observation_)
      if (!options.linked) layout.push_back({leaf.row_bytes(), size_of(leaf.dtype), false});
    for (const LeafSpec& spec : columns) {
      columns_.push_back(leaf_of(spec));
      column_readers.emplace_back(columns_.back(), N);
      layout.push_back({columns_.back().row_bytes(), size_of(columns_.back().dtype), false});
    }
    for (const replay::Column& column : layout) PYRL_CHECK(column.row_bytes > 0, ArgumentError, "ReplayBuffer: a space has no elements");
    list_outputs(options.frame_stack);
    reward_reader = RowReader({"reward", DType::Float32, {}}, N);
    terminated_reader = RowReader({"terminated", DType::Bool, {}}, N);
    truncated_reader = RowReader({"truncated", DType::Bool, {}}, N);
    valid_reader = RowReader({"valid", DType::Bool, {}}, N);
    ring = std::make_unique<replay::LaneRing>(layout, options);
  }

  // The ring lies on a device, "cuda:0", from now on; for an empty ring.
  void move_to(const std::string& name, bool host_copy);
  // Records lie on a device, and nowhere else.
  bool is_resident() const { return device != nullptr && !host_copy; }
  // The stream of the caller's work, where there is a device. With the interpreter lock.
  CudaStream caller_stream(const char* function) const { return device == nullptr ? CudaStream{} : device_stream(function); }
  // Working memory of a device, for the caller to hold until its work is on the stream.
  py::object workspace(std::int64_t bytes, void** data) const;

  // -- under the ring's lock;  with a device these wait for it, but for store() --------------------------------------------------------

  // As LaneRing::add. Rows may lie on the device.
  std::int64_t store(const replay::AddArgs& rows, bool on_device, const CudaStream& caller) {
    return device == nullptr ? ring->add(rows) : store_there(rows, on_device, caller);
  }
  // What is drawable; of more than `enough` only that it is enough.
  std::int64_t size(const CudaStream& caller, std::int64_t enough = std::numeric_limits<std::int64_t>::max());
  // The ring's books in host memory: all but the records' bytes.
  const replay::LaneRing& metadata(const CudaStream& caller);
  RandomStream random(const CudaStream& caller);
  void set_random(const RandomStream& random, const CudaStream& caller);
  RandomStream next_draw(const CudaStream& caller);
  // body(the next draw), which is given back if it fails.
  template <class Body>
  void drawing(const CudaStream& caller, const Body& body) {
    const RandomStream before = random(caller);
    try {
      body(next_draw(caller));
    } catch (...) {
      set_random(before, caller);
      throw;
    }
  }
  // Of all slots, of a prioritized ring.
  std::vector<double> leaves(const CudaStream& caller);
  void set_leaves(const std::vector<double>& leaves, const CudaStream& caller);

  // Draws may be prioritized from now on; for an empty ring, on its device.
  void prioritize(double alpha, double epsilon);
  bool is_prioritized() const { return priorities != nullptr || (device != nullptr && device->is_prioritized()); }

  const std::vector<Leaf>& observation() const { return observation_; }
  const std::vector<Leaf>& columns() const { return columns_; }
  // The arrays of a batch: observation leaves, next observation leaves, columns, reward, terminated, discount, index. Names and shapes
  // of one row, as messages about `out` need them.
  const std::vector<Leaf>& outputs() const { return outputs_; }

  // What a checkpoint holds of each slot, and under which names: the reward first.
  std::vector<replay::Column> stored_columns() const {
    std::vector<replay::Column> stored{{sizeof(float), sizeof(float), false, true, 0, ring->layout().stride()}};
    stored.insert(stored.end(), ring->layout().columns().begin(), ring->layout().columns().end());
    return stored;
  }
  std::vector<std::string> stored_names() const {
    std::vector<std::string> names{"reward"};
    for (const Leaf& leaf : observation_) names.push_back(leaf.name);
    if (!ring->options().linked)
      for (const Leaf& leaf : observation_) names.push_back("next_" + leaf.name);
    for (const Leaf& leaf : columns_) names.push_back(leaf.name);
    return names;
  }

  std::unique_ptr<replay::LaneRing> ring;      // without its records' bytes where they lie on a device only: then metadata() brings it up to date
  std::unique_ptr<replay::DeviceRing> device;  // null: none
  bool host_copy = false;                      // the ring is the authority, and mirrored on the device
  Location location{Kind::NumPy};                    // of batches and rows on a device
  std::uint64_t process = 0;                   // that a device's ring belongs to
  std::vector<replay::Outcome> outcome;        // of the rows of an add
  std::unique_ptr<replay::PrioritizedSelector> priorities;  // null: none, or on the device
  std::int64_t stale_updates = 0;                  // of priorities, for records that were gone
  RandomStream stream;  // of draws; where there is a device, it lies there
  StreamOwner stream_owner;
  std::vector<std::int64_t> slots, scratch;          // of draws, under the ring's lock
  std::vector<std::unique_ptr<RowScratch>> idle_rows;  // of adds, under the interpreter lock
  std::size_t all_rows = 0;                            // idle or not
  std::vector<RowReader> observation_readers, next_observation_readers, column_readers;
  RowReader reward_reader{{}, 0}, terminated_reader{{}, 0}, truncated_reader{{}, 0}, valid_reader{{}, 0};

 private:
  CudaStream device_stream(const char* function) const;
  std::int64_t store_there(const replay::AddArgs& rows, bool on_device, const CudaStream& caller);

  static Leaf leaf_of(const LeafSpec& spec) {
    const auto& [name, dtype, shape] = spec;
    PYRL_CHECK(shape.size() + 2 <= ArrayArg::max_rank, ShapeError, "ReplayBuffer: ", name, " has ", shape.size(), " dimensions, at most ",
               ArrayArg::max_rank - 2, " are supported");
    for (const std::int64_t extent : shape) PYRL_CHECK(extent >= 0, ShapeError, "ReplayBuffer: ", name, " has an extent of ", extent, ", expected at least 0");
    return {name, dtype_named(dtype, name), shape};
  }
  static Leaf renamed(Leaf leaf, std::string name) {
    leaf.name = std::move(name);
    return leaf;
  }

  void list_outputs(std::int64_t frame_stack) {
    const auto list = [&](Leaf leaf, const char* prefix, std::int64_t frames) {
      leaf.name = "out." + (prefix + leaf.name);
      if (frames > 1) leaf.shape.insert(leaf.shape.begin(), frames);
      outputs_.push_back(std::move(leaf));
    };
    for (const char* prefix : {"", "next_"})
      for (const Leaf& leaf : observation_) list(leaf, prefix, frame_stack);
    for (const Leaf& leaf : columns_) list(leaf, "", 1);
    list({"reward", DType::Float32, {}}, "", 1);
    list({"terminated", DType::Bool, {}}, "", 1);
    list({"discount", DType::Float32, {}}, "", 1);
    list({"index", DType::Int64, {}}, "", 1);
  }

  std::vector<Leaf> observation_, columns_, outputs_;
};

// Where there is a device, the body may wait for it.
template <class Body>
auto alone(const ReplayCore& self, const Body& body, ReleaseGil::When when = ReleaseGil::When::long_calls) {
  return alone(self.ring->lock(), body, self.device == nullptr ? when : ReleaseGil::When::always);
}

// replay_state.cpp: a checkpoint's arrays.
py::dict replay_state(ReplayCore& self);
void set_replay_state(ReplayCore& self, const py::dict& saved);

// An array [B] that a kernel reads: where the records lie, or on the CPU, from where it is brought there.
template <class T>
class DeviceArray {
 public:
  DeviceArray(const ReplayCore& self, Border& border, py::handle object, const char* name, std::int64_t count = -1) {
    ArrayArg arg = border.input(object, name);
    is_there_ = self.device != nullptr && !arg.on_cpu();
    if (is_there_) arg = border.input(object, name, self.location);
    view_ = arg.as<const T, 1>({count}, "[B]");
    view_.extent[0] = arg.shape[0];
    if (self.device != nullptr && !is_there_) owner_ = self.workspace(static_cast<std::int64_t>(sizeof(T)) * this->count(), &space_);
  }

  bool is_there() const { return is_there_; }
  std::int64_t count() const { return view_.extent[0]; }
  const T* data() const { return view_.data; }
  // On the device. Without the interpreter lock.
  const T* upload(const ReplayCore& self, const CudaStream& caller) const {
    if (is_there_) return view_.data;
    self.device->copy(space_, view_.data, static_cast<std::int64_t>(sizeof(T)) * count(), caller);
    return static_cast<const T*>(space_);
  }

 private:
  ArrayView<const T, 1> view_;
  bool is_there_ = false;
  py::object owner_;
  void* space_ = nullptr;
};

// replay_priorities.cpp
py::object update_priorities(ReplayCore& self, FastArgs args);
py::array_t<double> priorities(ReplayCore& self, py::handle index);
double total_priority(ReplayCore& self);
std::pair<std::int64_t, std::int64_t> unused_updates(ReplayCore& self);

// The arrays of a batch, in the order of ReplayCore::outputs(): fresh, or those of `out`, a tuple.
class Outputs {
 public:
  Outputs(Border& border, const ReplayCore& core, std::int64_t count, const Location& location, py::handle out) : data_(core.outputs().size()) {
    const std::size_t total = data_.size(), observations = core.observation().size();
    const bool given = !out.is_none();
    PYRL_CHECK(!given || (PyTuple_Check(out.ptr()) && PyTuple_GET_SIZE(out.ptr()) == static_cast<py::ssize_t>(total)), ArgumentError, border.function,
               ": out has other fields than this buffer's batches");
    arrays = py::tuple(total);
    for (std::size_t i = 0; i < total; ++i) {
      const Leaf& leaf = core.outputs()[i];
      std::array<std::int64_t, ArrayArg::max_rank> extents{count};
      std::copy(leaf.shape.begin(), leaf.shape.end(), extents.begin() + 1);
      const std::span<const std::int64_t> shape(extents.data(), leaf.shape.size() + 1);
      py::object array;
      data_[i] = border.result(array, given ? py::handle(PyTuple_GET_ITEM(out.ptr(), i)) : out, location, leaf.dtype, shape, leaf.name.c_str(), "[B, ...]");
      PyTuple_SET_ITEM(arrays.ptr(), i, array.release().ptr());
    }
    gather.count = count;
    gather.observation = data_.data();
    gather.next_observation = gather.observation + observations;
    gather.columns = gather.observation + (core.ring->options().linked ? 2 : 1) * observations;
    gather.reward = static_cast<float*>(data_[total - 4]);
    gather.terminated = static_cast<bool*>(data_[total - 3]);
    gather.discount = static_cast<float*>(data_[total - 2]);
    index = static_cast<std::int64_t*>(data_[total - 1]);
  }

  py::tuple arrays;
  replay::GatherArgs gather;
  std::int64_t* index = nullptr;

 private:
  std::vector<void*> data_;
};

}  // namespace pyrl::bindings

PYRL_CONSTRUCTED(::pyrl::bindings::ReplayCore);
