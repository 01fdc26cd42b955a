// The replay's border: rows of any accepted kind in, batches of arrays out. The Python face is pyrl.buffers.ReplayBuffer.
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "bindings/array_arg.hpp"
#include "bindings/fast_call.hpp"
#include "bindings/registry.hpp"
#include "bindings/replay_core.hpp"
#include "core/philox.hpp"
#include "replay/lane_ring.hpp"
#include "replay/window_gather.hpp"

namespace py = pybind11;
using namespace pyrl;
using namespace pyrl::bindings;
using namespace pyrl::replay;

namespace {

// Who waits for the ring's mutex has released the interpreter lock, and who holds the mutex never asks for that lock: so the two cannot
// deadlock. `body` must not touch Python.
template <class Body>
auto alone(const ReplayCore& self, const Body& body) {
  ReleaseGil released;
  const std::lock_guard<std::mutex> lock(self.ring->mutex());
  return body();
}

// The same for a short body: the interpreter lock is given up only if the ring is busy.
template <class Body>
auto alone_briefly(const ReplayCore& self, const Body& body) {
  {
    const std::unique_lock<std::mutex> lock(self.ring->mutex(), std::try_to_lock);
    if (lock) return body();
  }
  return alone(self, body);
}

// Memory for one call of `add`. Several are in use where a conversion by NumPy lets another thread, or a destructor, add in between.
class RowLease {
 public:
  explicit RowLease(ReplayCore& core) : core_(core) {
    if (core.idle_rows.empty()) {
      rows_ = std::make_unique<RowScratch>();
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
void read_leaves(const std::vector<RowReader>& readers, py::handle object, std::vector<const void*>& rows, RowScratch& scratch) {
  if (readers.size() == 1) {
    rows.push_back(readers[0].read(object, scratch));
    return;
  }
  for (std::size_t i = 0; i < readers.size(); ++i) rows.push_back(readers[i].read(PyTuple_GET_ITEM(object.ptr(), i), scratch));
}

// (observation, columns, reward, next_observation, terminated, truncated, valid)
py::object add(ReplayCore& self, FastArgs args) {
  RowLease lease(self);
  RowScratch& scratch = *lease;
  read_leaves(self.observation_readers, args[0], scratch.observation, scratch);
  read_leaves(self.next_observation_readers, args[3], scratch.next_observation, scratch);
  if (!self.ring->options().linked) scratch.columns = scratch.next_observation;
  read_leaves(self.column_readers, args[1], scratch.columns, scratch);
  AddArgs rows;
  rows.observation = scratch.observation.data();
  rows.next_observation = scratch.next_observation.data();
  rows.columns = scratch.columns.data();
  rows.reward = static_cast<const float*>(self.reward_reader.read(args[2], scratch));
  rows.terminated = static_cast<const bool*>(self.terminated_reader.read(args[4], scratch));
  rows.truncated = static_cast<const bool*>(self.truncated_reader.read(args[5], scratch));
  if (!args[6].is_none()) rows.valid = static_cast<const bool*>(self.valid_reader.read(args[6], scratch));
  const std::int64_t bad = alone_briefly(self, [&] { return self.ring->add(rows); });
  if (bad >= 0) {
    py::set_error(py::module_::import("pyrl.errors").attr("NonFiniteError"),
                  concat("add: reward of environment ", bad, " is ", rows.reward[bad], ", expected a finite number").c_str());
    throw py::error_already_set();
  }
  return py::none();
}

Kind kind_arg(py::handle torch) { return torch.ptr() == Py_True ? Kind::Torch : Kind::NumPy; }

void check_batch_size(std::int64_t count, std::int64_t stored) {
  PYRL_CHECK(count >= 1, ArgumentError, "sample: batch_size is ", count, ", expected at least 1");
  PYRL_CHECK(count <= stored, ArgumentError, "sample: batch_size is ", count, ", but only ", stored, " transitions are stored");
}

// (batch_size, replacement, torch, out) -> tuple of arrays
py::object sample(ReplayCore& self, FastArgs args) {
  const std::int64_t count = integer_arg(args[0], "sample", "batch_size");
  const int replacement = PyObject_IsTrue(args[1].ptr());
  if (replacement < 0) throw py::error_already_set();
  check_batch_size(count, self.ring->size());
  Outputs out(self, count, kind_arg(args[2]), args[3], "sample");
  alone(self, [&] {
    check_batch_size(count, self.ring->size());  // another thread may have cleared it
    self.slots.resize(static_cast<std::size_t>(count));
    const RandomStream stream{self.stream.key, self.stream.next_draw()};
    if (replacement) {
      self.ring->draw(stream, count, out.index, self.slots.data());
    } else {
      self.ring->draw_distinct(stream, count, out.index, self.slots.data(), self.scratch);
    }
    out.gather.slots = self.slots.data();
    gather(*self.ring, out.gather);
  });
  return out.arrays;
}

// (batch_size, beta, weight_by_buffer, torch, out, weight) -> (tuple of arrays, weight)
py::object sample_prioritized(ReplayCore& self, FastArgs args) {
  const std::int64_t count = integer_arg(args[0], "sample", "batch_size");
  const double beta = number_in(args[1], 0, 1, "sample", "beta");
  const bool by_buffer = args[2].ptr() == Py_True;
  check_batch_size(count, self.ring->size());
  Outputs out(self, count, kind_arg(args[3]), args[4], "sample");
  py::object weight;
  const auto weights = output<float, 1>(weight, args[5], kind_arg(args[3]), {count}, "sample", "out.weight", "[B]");
  alone(self, [&] {
    check_batch_size(count, self.ring->size());
    self.slots.resize(static_cast<std::size_t>(count));
    self.priorities->draw({self.stream.key, self.stream.next_draw()}, count, beta, by_buffer, self.slots.data(), weights.data);
    for (std::int64_t i = 0; i < count; ++i) out.index[i] = self.ring->name_of(self.slots[static_cast<std::size_t>(i)]);
    out.gather.slots = self.slots.data();
    gather(*self.ring, out.gather);
  });
  return py::make_tuple(std::move(out.arrays), std::move(weight));
}

// (index, priority): nothing is changed if any priority is negative or not finite.
py::object update_priorities(ReplayCore& self, FastArgs args) {
  const char* function = "update_priorities";
  const auto index = read_array(args[0], function, "index").as<const std::int64_t, 1>("[B]");
  const ArrayArg priority = read_array(args[1], function, "priority");
  const std::int64_t count = index.extent[0];
  const auto update = [&]<class Real>(Real) {
    const auto values = priority.as<const Real, 1>({count}, "[B]");
    for (std::int64_t i = 0; i < count; ++i) {
      PYRL_CHECK(std::isfinite(values(i)), NonFiniteError, function, ": priority of element ", i, " is ", values(i), ", expected a finite number");
      PYRL_CHECK(values(i) >= 0, ArgumentError, function, ": priority of element ", i, " is ", values(i), ", expected at least 0");
    }
    alone(self, [&] {
      self.slots.resize(static_cast<std::size_t>(count));
      self.stale_updates += self.ring->find(index.data, count, self.slots.data());
      self.priorities->update(self.slots.data(), values.data, count);
    });
  };
  priority.dtype == DType::Float64 ? update(double{}) : update(float{});
  return py::none();
}

// float64 [B]: the leaves of named records, 0 where they cannot be drawn.
py::array_t<double> priorities(ReplayCore& self, py::handle index_arg) {
  const auto index = read_array(index_arg, "priorities", "index").as<const std::int64_t, 1>("[B]");
  py::array_t<double> leaves(index.extent[0]);
  double* to = leaves.mutable_data();
  alone(self, [&] {
    self.slots.resize(static_cast<std::size_t>(index.extent[0]));
    self.ring->find(index.data, index.extent[0], self.slots.data());
    std::transform(self.slots.begin(), self.slots.end(), to, [&](std::int64_t slot) { return slot < 0 ? 0.0 : self.priorities->tree().get(slot); });
  });
  return leaves;
}

// (index, torch, out) -> tuple of arrays
py::object get(ReplayCore& self, FastArgs args) {
  const auto index = read_array(args[0], "get", "index").as<const std::int64_t, 1>("[B]");
  const std::int64_t count = index.extent[0];
  Outputs out(self, count, kind_arg(args[1]), args[2], "get");
  const std::int64_t stale = alone(self, [&] {
    self.slots.resize(static_cast<std::size_t>(count));
    const std::int64_t missing = self.ring->find(index.data, count, self.slots.data());
    if (missing != 0) return missing;
    std::copy_n(index.data, count, out.index);
    out.gather.slots = self.slots.data();
    gather(*self.ring, out.gather);
    return missing;
  });
  PYRL_CHECK(stale == 0, ArgumentError, "get: ", stale, " of ", count, " records are no longer (or not) drawable");
  return out.arrays;
}

// bool [B]
py::array_t<bool> drawable(ReplayCore& self, py::handle index_arg) {
  const auto index = read_array(index_arg, "is_drawable", "index").as<const std::int64_t, 1>("[B]");
  py::array_t<bool> found(index.extent[0]);
  bool* to = found.mutable_data();
  alone(self, [&] {
    self.slots.resize(static_cast<std::size_t>(index.extent[0]));
    self.ring->find(index.data, index.extent[0], self.slots.data());
    std::transform(self.slots.begin(), self.slots.end(), to, [](std::int64_t slot) { return slot >= 0; });
  });
  return found;
}

py::array_t<std::int64_t> shuffled(ReplayCore& self) {
  const auto index = alone(self, [&] {
    std::vector<std::int64_t> names(static_cast<std::size_t>(self.ring->size()));
    self.slots.resize(names.size());
    self.ring->draw_distinct({self.stream.key, self.stream.next_draw()}, self.ring->size(), names.data(), self.slots.data(), self.scratch);
    return names;
  });
  return py::array_t<std::int64_t>(static_cast<py::ssize_t>(index.size()), index.data());
}

// Columns [env, start, end, begins, ended]: `ended` holds the end flags of the last transition, 0 while the episode goes on.
py::array_t<std::int64_t> episodes(ReplayCore& self) {
  const auto spans = alone(self, [&] { return self.ring->episodes(); });
  py::array_t<std::int64_t> table({static_cast<py::ssize_t>(spans.size()), py::ssize_t{5}});
  auto rows = table.mutable_unchecked<2>();
  for (std::size_t i = 0; i < spans.size(); ++i) {
    const EpisodeSpan& span = spans[i];
    const std::int64_t values[] = {span.lane, span.start, span.end, (span.flags & flag::start) != 0, span.flags & flag::end};
    for (int c = 0; c < 5; ++c) rows(static_cast<py::ssize_t>(i), c) = values[c];
  }
  return table;
}

// The written slots of every column, hot or cold: [num_lanes, used, row_bytes] each.
template <class Move>
void move_rows(const LaneRing& ring, std::int64_t used, const std::vector<Column>& columns, const Move& move) {
  for (std::size_t c = 0; c < columns.size(); ++c)
    for (std::int64_t lane = 0; lane < ring.options().num_lanes; ++lane)
      for (std::int64_t offset = 0; offset < used; ++offset)
        move(c, (lane * used + offset) * columns[c].row_bytes, ring.row(columns[c], lane * ring.lane_capacity() + offset));
}

py::dict state(ReplayCore& self) {
  const LaneRing& ring = *self.ring;
  const auto names = self.stored_names();
  const auto columns = self.stored_columns();
  const std::int64_t lanes = ring.options().num_lanes;
  for (;;) {
    const std::int64_t used = std::max<std::int64_t>(1, alone(self, [&] { return ring.filled(); }));
    std::vector<py::array_t<std::uint8_t>> rows;
    std::vector<std::uint8_t*> to;
    for (const Column& column : columns) {
      rows.emplace_back(std::vector<py::ssize_t>{lanes, used, column.row_bytes});
      to.push_back(rows.back().mutable_data());
    }
    RingState saved;
    RandomStream stream;
    py::array_t<double> leaves({lanes, self.priorities ? used : 0});
    double* const leaf = leaves.mutable_data();
    const bool fits = alone(self, [&] {
      if (ring.filled() > used) return false;  // another thread has added meanwhile
      saved = ring.state(used);
      stream = self.stream;
      for (std::int64_t i = 0; self.priorities && i < lanes * used; ++i) leaf[i] = self.priorities->tree().get(i / used * ring.lane_capacity() + i % used);
      move_rows(ring, used, columns, [&](std::size_t c, std::int64_t at, const std::uint8_t* row) { std::memcpy(to[c] + at, row, static_cast<std::size_t>(columns[c].row_bytes)); });
      return true;
    });
    if (!fits) continue;
    py::dict result;
    const auto copy = [](const auto& values) { return py::array_t<typename std::decay_t<decltype(values)>::value_type>(static_cast<py::ssize_t>(values.size()), values.data()); };
    result["origins"] = copy(saved.origins);
    result["heads"] = copy(saved.heads);
    result["pending"] = copy(saved.pending);
    result["flags"] = copy(saved.flags).reshape({lanes, used});
    for (std::size_t c = 0; c < columns.size(); ++c) result[py::str("column." + names[c])] = rows[c];
    if (self.priorities) result["priorities"] = leaves;
    result["random"] = py::make_tuple(stream.key, std::uint64_t{0}, stream.draw);
    return result;
  }
}

// Everything is read and checked before anything is written.
void set_state(ReplayCore& self, const py::dict& saved) {
  LaneRing& ring = *self.ring;
  const auto names = self.stored_names();
  const auto columns = self.stored_columns();
  const std::int64_t lanes = ring.options().num_lanes;
  const auto item = [&](const std::string& name) {
    PYRL_CHECK(saved.contains(name), ArgumentError, "load_state_dict: ", name, " is missing");
    return py::object(saved[py::str(name)]);
  };
  std::vector<py::object> alive;
  const auto read = [&](const std::string& name) {
    alive.push_back(item(name));
    return read_array(alive.back(), "load_state_dict", name.c_str());
  };
  const auto copy = [](const auto& view) { return std::vector<std::decay_t<decltype(view.data[0])>>(view.data, view.data + view.size()); };
  RingState state;
  state.origins = copy(read("origins").as<const std::int64_t, 1>({lanes}, "[N]"));
  state.heads = copy(read("heads").as<const std::int64_t, 1>({lanes}, "[N]"));
  state.pending = copy(read("pending").as<const std::uint8_t, 1>({lanes}, "[N]"));
  const ArrayArg flags = read("flags");
  flags.require_shape(std::array<std::int64_t, 2>{lanes, -1}, "[N, written slots]");
  state.flags = copy(flags.as<const std::uint8_t, 2>("[N, written slots]"));
  state.used = flags.shape[1];
  std::vector<const std::uint8_t*> from;
  for (std::size_t c = 0; c < columns.size(); ++c)
    from.push_back(read("column." + names[c]).as<const std::uint8_t, 3>({lanes, state.used, columns[c].row_bytes}, "[N, written slots, bytes]").data);
  ArrayView<const double, 2> leaves;
  if (self.priorities) {
    leaves = read("priorities").as<const double, 2>({lanes, state.used}, "[N, written slots]");
    for (std::int64_t i = 0; i < leaves.size(); ++i)
      PYRL_CHECK(std::isfinite(leaves.data[i]) && (leaves.data[i] > 0) == ((state.flags[static_cast<std::size_t>(i)] & flag::drawable) != 0), ArgumentError,
                 "load_state_dict: priorities[", i / state.used, ", ", i % state.used, "] is ", leaves.data[i], ", expected a positive number where a record can be drawn, else 0");
  }
  const auto random = item("random").cast<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>>();
  alone(self, [&] {
    ring.set_state(state);
    move_rows(ring, state.used, columns, [&](std::size_t c, std::int64_t at, std::uint8_t* row) { std::memcpy(row, from[c] + at, static_cast<std::size_t>(columns[c].row_bytes)); });
    if (self.priorities) self.priorities->cleared();
    for (std::int64_t i = 0; i < leaves.size(); ++i) self.priorities->set(i / state.used * ring.lane_capacity() + i % state.used, leaves.data[i]);
    self.stream = {std::get<0>(random), std::get<2>(random)};
  });
}

}  // namespace

PYRL_BINDINGS(replay, m) {
  py::class_<ReplayCore> core(m, "ReplayCore", "The record stream behind pyrl.buffers.ReplayBuffer.");
  core.def(py::init([](const std::vector<ReplayCore::LeafSpec>& observation, const std::vector<ReplayCore::LeafSpec>& columns, std::int64_t capacity,
                       std::int64_t num_envs, int n_step, int frame_stack, bool pad_with_zeros, bool linked, double gamma, std::uint64_t key) {
             return std::make_unique<ReplayCore>(observation, columns, StreamOptions{capacity, num_envs, n_step, frame_stack, pad_with_zeros, linked, gamma}, key);
           }),
           py::arg("observation"), py::arg("columns"), py::arg("capacity"), py::arg("num_envs"), py::arg("n_step"), py::arg("frame_stack"),
           py::arg("pad_with_zeros"), py::arg("linked"), py::arg("gamma"), py::arg("key"))
      .def("__len__", [](const ReplayCore& self) { return self.ring->size(); })
      .def_property_readonly("capacity", [](const ReplayCore& self) { return self.ring->num_slots(); })
      .def_property_readonly("nbytes", [](const ReplayCore& self) { return self.ring->nbytes() + (self.priorities ? self.priorities->tree().nbytes() : 0); })
      .def_property_readonly("record_bytes", [](const ReplayCore& self) { return self.ring->layout().stride(); })
      .def("prioritize", [](ReplayCore& self, double alpha, double epsilon) { self.prioritize({alpha, epsilon}); }, py::arg("alpha"), py::arg("epsilon"))
      .def("priorities", &priorities, py::arg("index"))
      .def_property_readonly("total_priority", [](ReplayCore& self) { return alone(self, [&] { return self.priorities->tree().total(); }); })
      .def_readonly("stale_updates", &ReplayCore::stale_updates)
      .def("clear", [](ReplayCore& self) { alone(self, [&] { self.ring->clear(); }); })
      .def("drawable", &drawable, py::arg("index"))
      .def("shuffled", &shuffled)
      .def("episodes", &episodes)
      .def("state", &state)
      .def("set_state", &set_state, py::arg("state"));
  def_fast_method<ReplayCore, add, 7>(core, "add", "add(observation, columns, reward, next_observation, terminated, truncated, valid)");
  def_fast_method<ReplayCore, sample, 4>(core, "sample", "sample(batch_size, replacement, torch, out)");
  def_fast_method<ReplayCore, sample_prioritized, 6>(core, "sample_prioritized", "sample_prioritized(batch_size, beta, weight_by_buffer, torch, out, weight)");
  def_fast_method<ReplayCore, update_priorities, 2>(core, "update_priorities", "update_priorities(index, priority)");
  def_fast_method<ReplayCore, get, 3>(core, "get", "get(index, torch, out)");
}
