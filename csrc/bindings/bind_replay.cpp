// The replay's border: rows of any accepted kind in, batches of arrays out. The Python face is pyrl.buffers.ReplayBuffer.
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <unordered_set>
#include <vector>

#include "bindings/array_arg.hpp"
#include "bindings/fast_call.hpp"
#include "bindings/registry.hpp"
#include "bindings/replay_core.hpp"
#include "replay/select/episodes.hpp"

namespace py = pybind11;
using namespace pyrl;
using namespace pyrl::bindings;
using namespace pyrl::replay;

namespace {

// Of the transitions that can be drawn, how many there must be for a batch: with replacement any one serves again and again.
std::int64_t least_stored(const Selection& selection) { return selection.replacement ? std::min<std::int64_t>(selection.count, 1) : selection.count; }

void check_batch_size(const char* function, const Selection& selection, std::int64_t stored) {
  PYRL_CHECK(selection.count >= 1, ArgumentError, function, ": batch_size is ", selection.count, ", expected at least 1");
  PYRL_CHECK(least_stored(selection) <= stored, ArgumentError, function, ": batch_size is ", selection.count, ", but only ", stored, " transitions are stored");
}

// A draw without replacement may go through the whole ring.
ReleaseGil::When release_of(const Selection& selection) { return selection.replacement ? ReleaseGil::When::long_calls : ReleaseGil::When::always; }

void sample_into(ReplayCore& self, const Selection& selection, Outputs& out, const CudaStream& caller) {
  const Workspace workspace(self, self.store->workspace_bytes(selection.count));
  alone(self, [&] {
    check_batch_size("sample", selection, self.store->size(caller, least_stored(selection)));  // another thread may have cleared it
    self.store->sample(selection, out.gather, out.index, workspace.data, caller);
  }, release_of(selection));
}

// (batch_size, replacement, torch, out) -> fields of a batch
py::object sample(ReplayCore& self, FastArgs args) {
  const Selection selection{integer_arg(args[0]), flag_arg(args[1])};
  const CudaStream caller = self.caller_stream("sample");
  check_batch_size("sample", selection, self.store->most_size());
  Border border("sample");
  Outputs out(border, self, selection.count, self.default_window(), self.batch_location(args[2]), args[3]);
  sample_into(self, selection, out, caller);
  return out.fields;
}

// (batch_size, beta, weight_by_buffer, torch, out, weight) -> (fields of a batch, weight)
py::object sample_prioritized(ReplayCore& self, FastArgs args) {
  Selection selection{integer_arg(args[0], "sample", "batch_size"), true, number_in(args[1], 0, 1, "sample", "beta"), args[2].ptr() == Py_True};
  const CudaStream caller = self.caller_stream("sample");
  const Location location = self.batch_location(args[3]);
  check_batch_size("sample", selection, self.store->most_size());
  Border border("sample");
  Outputs out(border, self, selection.count, self.default_window(), location, args[4]);
  py::object weight;
  selection.weight = border.result<float, 1>(weight, args[5], location, {selection.count}, "out.weight", "[B]").data;
  sample_into(self, selection, out, caller);
  return py::make_tuple(std::move(out.fields), std::move(weight));
}

// (batch_size, replacement, torch) -> index
py::object draw(ReplayCore& self, FastArgs args) {
  const Selection selection{integer_arg(args[0]), flag_arg(args[1])};
  const CudaStream caller = self.caller_stream("draw");
  check_batch_size("draw", selection, self.store->most_size());
  py::object index;
  const auto to = allocate<std::int64_t, 1>(index, self.batch_location(args[2]), {selection.count});
  const Workspace workspace(self, self.store->workspace_bytes(selection.count));
  alone(self, [&] {
    check_batch_size("draw", selection, self.store->size(caller, least_stored(selection)));
    self.store->draw(selection, to.data, workspace.data, caller);
  }, release_of(selection));
  return index;
}

// (index, n_step, frame_stack, torch, out) -> fields of a batch
py::object get(ReplayCore& self, FastArgs args) {
  const StreamOptions& options = self.ring().options();
  const WindowLengths window{ReplayCore::window_arg(integer_arg(args[1]), "get", "n_step"),
                             ReplayCore::window_arg(integer_arg(args[2]), "get", "frame_stack")};
  PYRL_CHECK(options.linked || (window.n_step == 1 && window.frame_stack == 1), ArgumentError,
             "get: this buffer stores transitions without order (linked=False), expected n_step=1 and frame_stack=1");
  PYRL_CHECK(window.frame_stack <= self.ring().lane_capacity(), ArgumentError, "get: frame_stack is ", window.frame_stack, ", expected at most ",
             self.ring().lane_capacity(), ", the slots of an environment");
  const CudaStream caller = self.caller_stream("get");
  Border border("get");
  const DeviceArray<std::int64_t> index(self, border, args[0], "index");
  Outputs out(border, self, index.count(), window, self.batch_location(args[3]), args[4]);
  const Workspace workspace(self, self.store->workspace_bytes(index.count())), uploaded(self, index.bytes());
  const std::int64_t missing = alone(self, [&] {
    return self.store->get(out.gather, index.upload(*self.store, uploaded, caller), out.index, workspace.data, caller);
  });
  check_drawable("get", index.is_there() ? nullptr : index.data(), missing, window);
  return out.fields;
}

// bool [B]
py::array_t<bool> drawable(ReplayCore& self, py::handle index_arg) {
  const Call call = Call::long_one(&index_arg.ptr(), 1);
  const auto index = read_array(index_arg, "is_drawable", "index").as<const std::int64_t, 1>("[B]");
  const CudaStream caller = self.caller_stream("is_drawable");
  py::array_t<bool> found(index.extent[0]);
  bool* to = found.mutable_data();
  alone(self, [&] {
    std::vector<std::int64_t> slots(static_cast<std::size_t>(index.extent[0]));
    self.store->metadata(caller).find(index.data, index.extent[0], 1, slots.data());
    std::transform(slots.begin(), slots.end(), to, [](std::int64_t slot) { return slot >= 0; });
  });
  return found;
}

// Deletes the episodes that these records belong to; returns how many transitions are not drawable any more.
std::int64_t delete_episodes(ReplayCore& self, py::handle index_arg) {
  const Call call = Call::long_one(&index_arg.ptr(), 1);
  const auto index = read_array(index_arg, "delete", "index").as<const std::int64_t, 1>("[B]");
  const CudaStream caller = self.caller_stream("delete");
  std::int64_t missing = -1, before = 0, after = 0;
  alone(self, [&] {
    const LaneRing& ring = self.store->metadata(caller);
    std::vector<std::int64_t> slots(static_cast<std::size_t>(index.extent[0])), deleted;
    if (ring.find(index.data, index.extent[0], 1, slots.data()) != 0) {
      missing = std::find(slots.begin(), slots.end(), -1) - slots.begin();
      return;
    }
    before = ring.size();
    std::unordered_set<std::int64_t> seen;
    for (const std::int64_t slot : slots) {
      if (seen.count(slot) != 0) continue;
      for (const std::int64_t of_episode : episode_slots(ring, slot)) {
        seen.insert(of_episode);
        deleted.push_back(of_episode);
      }
    }
    self.store->remove(deleted, caller);
    after = ring.size();
  });
  check_drawable("delete", index.data, missing);
  return before - after;
}

py::array_t<std::int64_t> shuffled(ReplayCore& self) {
  const CudaStream caller = self.caller_stream("epoch");
  for (;;) {
    const std::int64_t count = alone(self, [&] { return self.store->size(caller); });
    py::array_t<std::int64_t> index(count);
    std::int64_t* const to = index.mutable_data();
    const bool fits = alone(self, [&] {
      if (self.store->metadata(caller).size() != count) return false;  // another thread has added meanwhile
      self.store->shuffle(count, to, caller);
      return true;
    });
    if (fits) return index;
  }
}

// Columns [env, start, end, begins, ended]: `ended` holds the end flags of the last transition, 0 while the episode runs.
py::array_t<std::int64_t> episode_table(ReplayCore& self) {
  const CudaStream caller = self.caller_stream("episodes");
  const auto spans = alone(self, [&] { return replay::episodes(self.store->metadata(caller)); });
  py::array_t<std::int64_t> table({static_cast<py::ssize_t>(spans.size()), py::ssize_t{5}});
  auto rows = table.mutable_unchecked<2>();
  for (std::size_t i = 0; i < spans.size(); ++i) {
    const EpisodeSpan& span = spans[i];
    const std::int64_t values[] = {span.lane, span.start, span.end, (span.flags & flag::start) != 0, span.flags & flag::end};
    for (int c = 0; c < 5; ++c) rows(static_cast<py::ssize_t>(i), c) = values[c];
  }
  return table;
}

// int64 [N]: the newest transition of each environment, -1 where there is none.
py::array_t<std::int64_t> newest(ReplayCore& self) {
  const CudaStream caller = self.caller_stream("newest");
  py::array_t<std::int64_t> index(self.ring().options().num_lanes);
  std::int64_t* const to = index.mutable_data();
  alone(self, [&] {
    const RingView& view = self.store->metadata(caller).view();
    for (std::int64_t lane = 0; lane < view.options.num_lanes; ++lane) {
      const std::int64_t oldest = std::max(view.origins[lane], view.heads[lane] - view.lane_capacity);
      std::int64_t position = view.heads[lane] - 1;
      while (position >= oldest && (view.flags[view.slot(lane, position)] & flag::transition) == 0) --position;
      to[lane] = position < oldest ? -1 : position * view.options.num_lanes + lane;
    }
  });
  return index;
}

std::int64_t length(ReplayCore& self) {
  if (self.store->size_is_known()) return self.store->most_size();
  const CudaStream caller = self.caller_stream("len");
  return alone(self, [&] { return self.store->size(caller); });
}

void clear(ReplayCore& self) {
  const CudaStream caller = self.caller_stream("clear");
  alone(self, [&] { self.store->clear(caller); });
}

void cut(ReplayCore& self) {
  PYRL_CHECK(!self.location.device.is_cuda(), DeviceError, "cut: the records of this buffer are on ", self.location.device.text(), ", expected a buffer on the CPU");
  alone(self, [&] { self.store->own_ring().cut(); });
}

void flush(ReplayCore& self) {
  const CudaStream caller = self.caller_stream("flush");
  alone(self, [&] { self.store->flush(caller); });
}

std::int64_t skipped_rows(ReplayCore& self) {
  const CudaStream caller = self.caller_stream("skipped_rows");
  return alone(self, [&] { return self.store->skipped(caller); });
}

StreamOptions options_of(std::int64_t capacity, std::int64_t num_envs, std::int64_t n_step, std::int64_t frame_stack, bool pad_with_zeros, bool linked, double gamma) {
  return {capacity, num_envs, ReplayCore::window_arg(n_step, "ReplayBuffer", "n_step"), ReplayCore::window_arg(frame_stack, "ReplayBuffer", "frame_stack"),
          pad_with_zeros, linked, gamma};
}

}  // namespace

PYRL_BINDINGS(replay, m) {
  py::class_<ReplayCore> core(m, "ReplayCore", "The record stream behind pyrl.buffers.ReplayBuffer.");
  core.def(py::init([](const std::vector<ReplayCore::LeafSpec>& observation, const std::vector<ReplayCore::LeafSpec>& columns, std::int64_t capacity,
                       std::int64_t num_envs, std::int64_t n_step, std::int64_t frame_stack, bool pad_with_zeros, bool linked, double gamma, std::uint64_t key) {
             const StreamOptions options = options_of(capacity, num_envs, n_step, frame_stack, pad_with_zeros, linked, gamma);
             // Not a unique_ptr: where pybind11 then runs out of memory, it would free the object twice.
             return new ReplayCore(observation, columns, options, key);
           }),
           py::arg("observation"), py::arg("columns"), py::arg("capacity"), py::arg("num_envs"), py::arg("n_step"), py::arg("frame_stack"),
           py::arg("pad_with_zeros"), py::arg("linked"), py::arg("gamma"), py::arg("key"))
      .def_static("forecast", [](const std::vector<ReplayCore::LeafSpec>& observation, const std::vector<ReplayCore::LeafSpec>& columns, std::int64_t capacity,
                                 std::int64_t num_envs, std::int64_t n_step, std::int64_t frame_stack, bool linked, bool prioritized, bool on_device, bool host_copy) {
             return ReplayCore::forecast(observation, columns, options_of(capacity, num_envs, n_step, frame_stack, false, linked, 1.0), prioritized, on_device, host_copy);
           },
           py::arg("observation"), py::arg("columns"), py::arg("capacity"), py::arg("num_envs"), py::arg("n_step"), py::arg("frame_stack"), py::arg("linked"),
           py::arg("prioritized"), py::arg("on_device"), py::arg("host_copy"))
      .def("move_to", &ReplayCore::move_to, py::arg("device"), py::arg("host_copy"))
      .def("__len__", &length)
      .def_property_readonly("newest", &newest)
      .def_property_readonly("capacity", [](const ReplayCore& self) { return self.ring().num_slots(); })
      .def_property_readonly("nbytes", [](const ReplayCore& self) { return self.store->nbytes(); })
      .def_property_readonly("bytes_copied", [](const ReplayCore& self) { return self.store->bytes_copied(); })
      .def_property_readonly("skipped_rows", &skipped_rows)
      .def_property_readonly("record_bytes", [](const ReplayCore& self) { return self.ring().layout().stride(); })
      .def("prioritize", &ReplayCore::prioritize, py::arg("alpha"), py::arg("epsilon"))
      .def("priorities", &priorities, py::arg("index"))
      .def_property_readonly("total_priority", &total_priority)
      .def_property_readonly("unused_updates", &unused_updates)
      .def("clear", &clear)
      .def("cut", &cut)
      .def("flush", &flush)
      .def("delete", &delete_episodes, py::arg("index"))
      .def("drawable", &drawable, py::arg("index"))
      .def("shuffled", &shuffled)
      .def("episodes", &episode_table)
      .def("column", &read_column, py::arg("name"), py::arg("index"))
      .def("steps", &bindings::steps, py::arg("index"), py::arg("n_step"))
      .def("goals", &goals, py::arg("index"), py::arg("strategy"), py::arg("share"))
      .def("state", &replay_state)
      .def("set_state", &set_replay_state, py::arg("state"));
  def_fast_method<ReplayCore, add, "add(observation, action, reward, next_observation, terminated, truncated, valid, extra)">(core);
  def_fast_method<ReplayCore, extend, "extend(observation, action, reward, next_observation, terminated, truncated, valid, extra, first_lane, lanes)">(core);
  def_fast_method<ReplayCore, sample, "sample(batch_size, replacement, torch, out)">(core);
  def_fast_method<ReplayCore, sample_prioritized, "sample_prioritized(batch_size, beta, weight_by_buffer, torch, out, weight)">(core);
  def_fast_method<ReplayCore, draw, "draw(batch_size, replacement, torch)">(core);
  def_fast_method<ReplayCore, get, "get(index, n_step, frame_stack, torch, out)">(core);
  def_fast_method<ReplayCore, update_priorities, "update_priorities(index, priority)">(core);
  def_fast_method<ReplayCore, weight, "weight(index, beta, weight_by_buffer, torch)">(core);
}
