// The replay's border: rows of any accepted kind in, batches of arrays out. The Python face is pyrl.buffers.ReplayBuffer.
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "bindings/array_arg.hpp"
#include "bindings/fast_call.hpp"
#include "bindings/registry.hpp"
#include "bindings/replay_core.hpp"
#include "bindings/tensor_arg.hpp"
#include "core/philox.hpp"
#include "replay/lane_ring.hpp"
#include "replay/window/gather.hpp"

namespace py = pybind11;
using namespace pyrl;
using namespace pyrl::bindings;
using namespace pyrl::replay;

namespace {

// Memory for one call of `add`. Several are in use where a conversion by NumPy lets another thread, or a destructor, add in between.
class RowLease {
 public:
  explicit RowLease(ReplayCore& core) : core_(core) {
    if (core.idle_rows.empty()) {
      rows_ = std::make_unique<RowScratch>();
      core.idle_rows.reserve(++core.all_rows);  // so that giving it back cannot fail
    } else {
      rows_ = std::move(core.idle_rows.back());
      core.idle_rows.pop_back();
    }
  }
  ~RowLease() {
    rows_->reset();
    core_.idle_rows.push_back(std::move(rows_));
  }
  RowLease(const RowLease&) = delete;
  RowLease& operator=(const RowLease&) = delete;
  RowScratch& operator*() { return *rows_; }

 private:
  ReplayCore& core_;
  std::unique_ptr<RowScratch> rows_;
};

// One leaf is given as itself, several as a tuple.
template <class Read>
void read_leaves(const std::vector<RowReader>& readers, py::handle object, std::vector<const void*>& rows, const Read& read) {
  if (readers.size() == 1) {
    rows.push_back(read(readers[0], object));
    return;
  }
  for (std::size_t i = 0; i < readers.size(); ++i) rows.push_back(read(readers[i], PyTuple_GET_ITEM(object.ptr(), static_cast<py::ssize_t>(i))));
}

// Whether the rows of an add lie on a GPU; the first leaf of its observation decides.
bool on_device(const ReplayCore& self, py::handle observation) {
  if (self.device == nullptr) return false;
  const py::handle first = self.observation_readers.size() == 1 ? observation : py::handle(PyTuple_GET_ITEM(observation.ptr(), 0));
  const Device device = device_of(first);
  PYRL_CHECK(device.is_cpu() || !self.host_copy, DeviceError, "add: observation is on ", device.text(),
             ", expected the CPU (a buffer with host_copy=True keeps its records there)");
  return !device.is_cpu();
}

// read(reader, argument): where the rows lie.
template <class Read>
AddArgs read_rows(ReplayCore& self, FastArgs args, RowScratch& scratch, const Read& read) {
  read_leaves(self.observation_readers, args[0], scratch.observation, read);
  read_leaves(self.next_observation_readers, args[3], scratch.next_observation, read);
  if (!self.ring->options().linked) scratch.columns = scratch.next_observation;
  read_leaves(self.column_readers, args[1], scratch.columns, read);
  AddArgs rows;
  rows.observation = scratch.observation.data();
  rows.next_observation = scratch.next_observation.data();
  rows.columns = scratch.columns.data();
  rows.reward = static_cast<const float*>(read(self.reward_reader, args[2]));
  rows.terminated = static_cast<const bool*>(read(self.terminated_reader, args[4]));
  rows.truncated = static_cast<const bool*>(read(self.truncated_reader, args[5]));
  if (!args[6].is_none()) rows.valid = static_cast<const bool*>(read(self.valid_reader, args[6]));
  return rows;
}

// (observation, columns, reward, next_observation, terminated, truncated, valid)
py::object add(ReplayCore& self, FastArgs args) {
  RowLease lease(self);
  RowScratch& scratch = *lease;
  const bool there = on_device(self, args[0]);
  const AddArgs rows = there ? read_rows(self, args, scratch, [&](const RowReader& reader, py::handle rows_there) { return reader.read_at(rows_there, self.location); })
                             : read_rows(self, args, scratch, [&](const RowReader& reader, py::handle rows_here) { return reader.read(rows_here, scratch); });
  const CudaStream caller = self.caller_stream("add");
  const std::int64_t bad = alone(self, [&] { return self.store(rows, there, caller); }, ReleaseGil::When::if_busy);
  if (bad >= 0) {
    py::set_error(py::module_::import("pyrl.errors").attr("NonFiniteError"),
                  concat("add: reward of environment ", bad, " is ", rows.reward[bad], ", expected a finite number").c_str());
    throw py::error_already_set();
  }
  return py::none();
}

// Where a batch goes, and as what: tensors, if `torch` or if they lie on a GPU.
Location batch_location(const ReplayCore& self, py::handle torch) {
  return self.location.device.is_cuda() ? self.location : Location(torch.ptr() == Py_True ? Kind::Torch : Kind::NumPy);
}

// Of the transitions that can be drawn, how many there must be for a batch: with replacement any one serves again and again.
std::int64_t least_stored(std::int64_t count, bool replacement) { return replacement ? std::min<std::int64_t>(count, 1) : count; }

void check_batch_size(std::int64_t count, std::int64_t stored, bool replacement) {
  PYRL_CHECK(count >= 1, ArgumentError, "sample: batch_size is ", count, ", expected at least 1");
  PYRL_CHECK(least_stored(count, replacement) <= stored, ArgumentError, "sample: batch_size is ", count, ", but only ", stored, " transitions are stored");
}

// (batch_size, replacement, torch, out) -> tuple of arrays
py::object sample(ReplayCore& self, FastArgs args) {
  const std::int64_t count = integer_arg(args[0], "sample", "batch_size");
  const bool replacement = flag_arg(args[1], "sample", "replacement");
  const CudaStream caller = self.caller_stream("sample");
  check_batch_size(count, self.device ? count : self.ring->size(), replacement);
  Border border("sample");
  Outputs out(border, self, count, batch_location(self, args[2]), args[3]);
  void* space = nullptr;
  const py::object owner = self.device ? self.workspace(DeviceRing::workspace_bytes(count), &space) : py::object();
  alone(self, [&] {
    check_batch_size(count, self.size(caller, least_stored(count, replacement)), replacement);  // another thread may have cleared it
    if (self.device && replacement) return self.device->sample(out.gather, out.index, space, caller);
    self.slots.resize(static_cast<std::size_t>(count));
    if (self.device) {
      const LaneRing& metadata = self.metadata(caller);
      check_batch_size(count, metadata.size(), false);  // the size before was perhaps believed, not seen
      std::vector<std::int64_t> names(static_cast<std::size_t>(count));
      metadata.draw_distinct(self.next_draw(caller), count, names.data(), self.slots.data(), self.scratch);
      self.device->copy(out.index, names.data(), 8 * count, caller);
      std::int64_t* const found = DeviceRing::slots_in(space, count);
      self.device->find(out.index, count, found, caller);
      out.gather.slots = found;
      return self.device->gather(out.gather, space, caller);
    }
    self.drawing(caller, [&](const RandomStream& stream) {
      if (replacement) {
        self.ring->draw(stream, count, out.index, self.slots.data());
      } else {
        self.ring->draw_distinct(stream, count, out.index, self.slots.data(), self.scratch);
      }
      out.gather.slots = self.slots.data();
      gather(*self.ring, out.gather);
    });
  }, replacement ? ReleaseGil::When::long_calls : ReleaseGil::When::always);  // which may go through the whole ring
  return out.arrays;
}

// (batch_size, beta, weight_by_buffer, torch, out, weight) -> (tuple of arrays, weight)
py::object sample_prioritized(ReplayCore& self, FastArgs args) {
  const std::int64_t count = integer_arg(args[0], "sample", "batch_size");
  const double beta = number_in(args[1], 0, 1, "sample", "beta");
  const bool by_buffer = args[2].ptr() == Py_True;
  const CudaStream caller = self.caller_stream("sample");
  const Location location = batch_location(self, args[3]);
  check_batch_size(count, self.device ? count : self.ring->size(), true);
  Border border("sample");
  Outputs out(border, self, count, location, args[4]);
  py::object weight;
  const auto weights = border.result<float, 1>(weight, args[5], location, {count}, "out.weight", "[B]");
  void* space = nullptr;
  const py::object owner = self.device ? self.workspace(DeviceRing::workspace_bytes(count), &space) : py::object();
  alone(self, [&] {
    check_batch_size(count, self.size(caller, 1), true);
    if (self.device) return self.device->sample_prioritized(out.gather, out.index, beta, by_buffer, weights.data, space, caller);
    self.slots.resize(static_cast<std::size_t>(count));
    self.drawing(caller, [&](const RandomStream& stream) {
      self.priorities->draw(stream, count, beta, by_buffer, self.slots.data(), weights.data);
      for (std::int64_t i = 0; i < count; ++i) out.index[i] = self.ring->index_of(self.slots[static_cast<std::size_t>(i)]);
      out.gather.slots = self.slots.data();
      gather(*self.ring, out.gather);
    });
  });
  return py::make_tuple(std::move(out.arrays), std::move(weight));
}

// (index, torch, out) -> tuple of arrays
py::object get(ReplayCore& self, FastArgs args) {
  const CudaStream caller = self.caller_stream("get");
  Border border("get");
  const DeviceArray<std::int64_t> index(self, border, args[0], "index");
  Outputs out(border, self, index.count(), batch_location(self, args[1]), args[2]);
  void* space = nullptr;
  const py::object owner = self.device ? self.workspace(DeviceRing::workspace_bytes(index.count()), &space) : py::object();
  const std::int64_t stale = alone(self, [&] {
    if (self.device) {
      const std::int64_t* const names = index.upload(self, caller);
      std::int64_t* const slots = DeviceRing::slots_in(space, index.count());
      self.device->find(names, index.count(), slots, caller);
      if (const std::int64_t missing = self.device->stale(caller); missing != 0) return missing;
      self.device->copy(out.index, names, 8 * index.count(), caller);
      out.gather.slots = slots;
      self.device->gather(out.gather, space, caller);
      return std::int64_t{0};
    }
    self.slots.resize(static_cast<std::size_t>(index.count()));
    const std::int64_t missing = self.ring->find(index.data(), index.count(), self.slots.data());
    if (missing != 0) return missing;
    std::copy_n(index.data(), index.count(), out.index);
    out.gather.slots = self.slots.data();
    gather(*self.ring, out.gather);
    return missing;
  });
  PYRL_CHECK(stale == 0, ArgumentError, "get: ", stale, " of ", index.count(), " records are no longer (or not) drawable");
  return out.arrays;
}

// bool [B]
py::array_t<bool> drawable(ReplayCore& self, py::handle index_arg) {
  const Call call = Call::long_one(&index_arg.ptr(), 1);
  const auto index = read_array(index_arg, "is_drawable", "index").as<const std::int64_t, 1>("[B]");
  const CudaStream caller = self.caller_stream("is_drawable");
  py::array_t<bool> found(index.extent[0]);
  bool* to = found.mutable_data();
  alone(self, [&] {
    self.slots.resize(static_cast<std::size_t>(index.extent[0]));
    self.metadata(caller).find(index.data, index.extent[0], self.slots.data());
    std::transform(self.slots.begin(), self.slots.end(), to, [](std::int64_t slot) { return slot >= 0; });
  });
  return found;
}

py::array_t<std::int64_t> shuffled(ReplayCore& self) {
  const CudaStream caller = self.caller_stream("epoch");
  for (;;) {
    const std::int64_t count = alone(self, [&] { return self.size(caller); });
    py::array_t<std::int64_t> index(count);
    std::int64_t* const names = index.mutable_data();
    const bool fits = alone(self, [&] {
      const LaneRing& ring = self.metadata(caller);
      if (ring.size() != count) return false;  // another thread has added meanwhile
      self.slots.resize(static_cast<std::size_t>(count));
      self.drawing(caller, [&](const RandomStream& stream) { ring.draw_distinct(stream, count, names, self.slots.data(), self.scratch); });
      return true;
    });
    if (fits) return index;
  }
}

// Columns [env, start, end, begins, ended]: `ended` holds the end flags of the last transition, 0 while the episode goes on.
py::array_t<std::int64_t> episodes(ReplayCore& self) {
  const CudaStream caller = self.caller_stream("episodes");
  const auto spans = alone(self, [&] { return self.metadata(caller).episodes(); });
  py::array_t<std::int64_t> table({static_cast<py::ssize_t>(spans.size()), py::ssize_t{5}});
  auto rows = table.mutable_unchecked<2>();
  for (std::size_t i = 0; i < spans.size(); ++i) {
    const EpisodeSpan& span = spans[i];
    const std::int64_t values[] = {span.lane, span.start, span.end, (span.flags & flag::start) != 0, span.flags & flag::end};
    for (int c = 0; c < 5; ++c) rows(static_cast<py::ssize_t>(i), c) = values[c];
  }
  return table;
}

std::int64_t length(ReplayCore& self) {
  if (!self.is_resident()) return self.ring->size();
  const CudaStream caller = self.caller_stream("len");
  return alone(self, [&] { return self.size(caller); });
}

std::int64_t nbytes(const ReplayCore& self) {
  return (self.is_resident() ? 0 : self.ring->nbytes()) + (self.device ? self.device->nbytes() : 0) + (self.priorities ? self.priorities->tree().nbytes() : 0);
}

void clear(ReplayCore& self) {
  const CudaStream caller = self.caller_stream("clear");
  alone(self, [&] {
    if (self.device) self.device->clear(caller);  // first, as it may refuse
    self.ring->clear();
  });
}

void flush(ReplayCore& self) {
  const CudaStream caller = self.caller_stream("flush");
  alone(self, [&] {
    if (self.device) self.device->flush(caller);
  });
}

std::int64_t skipped_rows(ReplayCore& self) {
  const CudaStream caller = self.caller_stream("skipped_rows");
  return alone(self, [&] { return self.device ? self.device->skipped(caller) : 0; });
}

}  // namespace

PYRL_BINDINGS(replay, m) {
  py::class_<ReplayCore> core(m, "ReplayCore", "The record stream behind pyrl.buffers.ReplayBuffer.");
  core.def(py::init([](const std::vector<ReplayCore::LeafSpec>& observation, const std::vector<ReplayCore::LeafSpec>& columns, std::int64_t capacity,
                       std::int64_t num_envs, std::int64_t n_step, std::int64_t frame_stack, bool pad_with_zeros, bool linked, double gamma, std::uint64_t key) {
             const StreamOptions options{capacity, num_envs, ReplayCore::window_arg(n_step, "n_step"), ReplayCore::window_arg(frame_stack, "frame_stack"), pad_with_zeros, linked, gamma};
             // Not a unique_ptr: where pybind11 then runs out of memory, it would free the object twice.
             return new ReplayCore(observation, columns, options, key);
           }),
           py::arg("observation"), py::arg("columns"), py::arg("capacity"), py::arg("num_envs"), py::arg("n_step"), py::arg("frame_stack"),
           py::arg("pad_with_zeros"), py::arg("linked"), py::arg("gamma"), py::arg("key"))
      .def("move_to", &ReplayCore::move_to, py::arg("device"), py::arg("host_copy"))
      .def("__len__", &length)
      .def_property_readonly("capacity", [](const ReplayCore& self) { return self.ring->num_slots(); })
      .def_property_readonly("nbytes", &nbytes)
      .def_property_readonly("bytes_copied", [](const ReplayCore& self) { return self.device ? self.device->bytes_copied() : 0; })
      .def_property_readonly("skipped_rows", &skipped_rows)
      .def_property_readonly("record_bytes", [](const ReplayCore& self) { return self.ring->layout().stride(); })
      .def("prioritize", &ReplayCore::prioritize, py::arg("alpha"), py::arg("epsilon"))
      .def("priorities", &priorities, py::arg("index"))
      .def_property_readonly("total_priority", &total_priority)
      .def_property_readonly("unused_updates", &unused_updates)
      .def("clear", &clear)
      .def("flush", &flush)
      .def("drawable", &drawable, py::arg("index"))
      .def("shuffled", &shuffled)
      .def("episodes", &episodes)
      .def("state", &replay_state)
      .def("set_state", &set_replay_state, py::arg("state"));
  def_fast_method<ReplayCore, add, 7>(core, "add", "add(observation, columns, reward, next_observation, terminated, truncated, valid)");
  def_fast_method<ReplayCore, sample, 4>(core, "sample", "sample(batch_size, replacement, torch, out)");
  def_fast_method<ReplayCore, sample_prioritized, 6>(core, "sample_prioritized", "sample_prioritized(batch_size, beta, weight_by_buffer, torch, out, weight)");
  def_fast_method<ReplayCore, update_priorities, 2>(core, "update_priorities", "update_priorities(index, priority)");
  def_fast_method<ReplayCore, get, 3>(core, "get", "get(index, torch, out)");
}
