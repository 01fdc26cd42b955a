// A replay in a checkpoint: its metadata, and the written rows of every column.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "bindings/replay_core.hpp"
#include "core/interrupt.hpp"

namespace pyrl::bindings {
namespace {

using namespace pyrl::replay;

// The written slots of every column, hot or cold: [num_lanes, used, row_bytes] each. Can be stopped.
template <class Move>
void move_rows(const LaneRing& ring, std::int64_t used, const std::vector<Column>& columns, const Move& move) {
  for (std::size_t c = 0; c < columns.size(); ++c)
    for (std::int64_t lane = 0; lane < ring.options().num_lanes; ++lane)
      in_pieces(used, std::max<std::int64_t>(1, (1 << 20) / columns[c].row_bytes), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t offset = begin; offset < end; ++offset)
          move(c, (lane * used + offset) * columns[c].row_bytes, ring.row(columns[c], lane * ring.lane_capacity() + offset));
      });
}

RandomStream random_of(const py::object& saved) {
  try {
    const auto [key, low, draw] = saved.cast<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>>();
    if (low == 0) return {key, draw};
  } catch (const py::cast_error&) {
  }
  throw ArgumentError(concat("load_state_dict: random is ", py::repr(saved).cast<std::string>(), ", expected (key, 0, draw) of 64-bit words"));
}

// Refuses what no `add` would have stored.
void check_rows(const ReplayCore& self, const RingState& state, const std::vector<Column>& columns, const std::vector<Leaf>& leaves,
                const std::vector<const std::uint8_t*>& rows) {
  const std::int64_t slots = self.ring().options().num_lanes * state.used;
  for (std::int64_t slot = 0; slot < slots; ++slot) {
    float reward;
    std::memcpy(&reward, rows[0] + slot * columns[0].row_bytes, sizeof reward);
    const bool is_transition = (state.flags[static_cast<std::size_t>(slot)] & flag::transition) != 0;
    PYRL_CHECK(!is_transition || std::isfinite(reward), NonFiniteError, "load_state_dict: a reward is NaN or infinite");
  }
  for (std::size_t c = 0; c < columns.size(); ++c)
    PYRL_CHECK(leaves[c].dtype != DType::Bool || std::all_of(rows[c], rows[c] + slots * columns[c].row_bytes, [](std::uint8_t byte) { return byte <= 1; }),
               ArgumentError, "load_state_dict: column.", leaves[c].name, " holds bytes other than 0 and 1");
}

}  // namespace

py::dict replay_state(ReplayCore& self) {
  const CudaStream caller = self.caller_stream("state_dict");
  Store& store = *self.store;
  const bool is_prioritized = store.is_prioritized();
  RandomStream stream;
  std::vector<double> priorities;  // of all slots
  const auto take_rest = [&] {
    stream = store.random(caller);
    if (is_prioritized) priorities = store.leaves(caller);
  };
  const auto fetched = store.transfer_ring();
  if (fetched) {
    alone(self, [&] {
      store.download(fetched.get(), caller);
      take_rest();
    });
  }
  const LaneRing& ring = fetched ? *fetched : store.ring();
  const auto stored = self.stored_leaves();
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
    py::array_t<double> leaves({lanes, is_prioritized ? used : 0});
    double* const leaf = leaves.mutable_data();
    const bool fits = alone(self, [&] {
      if (ring.filled() > used) return false;  // another thread has added meanwhile
      saved = ring.state(used);
      if (!fetched) take_rest();
      for (std::int64_t lane = 0; is_prioritized && lane < lanes; ++lane)
        std::copy_n(priorities.begin() + lane * ring.lane_capacity(), used, leaf + lane * used);
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
    for (std::size_t c = 0; c < columns.size(); ++c) result[py::str("column." + stored[c].name)] = rows[c];
    if (is_prioritized) result["priorities"] = leaves;
    result["random"] = py::make_tuple(stream.key, std::uint64_t{0}, stream.draw);
    return result;
  }
}

// Everything is read and checked before anything is written.
void set_replay_state(ReplayCore& self, const py::dict& saved) {
  const CudaStream caller = self.caller_stream("load_state_dict");
  Store& store = *self.store;
  const bool is_prioritized = store.is_prioritized();
  const auto taken = store.transfer_ring();
  LaneRing& ring = taken ? *taken : store.own_ring();
  const auto stored = self.stored_leaves();
  const auto columns = self.stored_columns();
  const std::int64_t lanes = ring.options().num_lanes;
  const auto item = [&](const std::string& name) {
    PYRL_CHECK(saved.contains(name), ArgumentError, "load_state_dict: ", name, " is missing");
    return py::object(saved[py::str(name)]);
  };
  std::list<std::pair<std::string, py::object>> alive;  // names and arrays, as long as messages and views need them
  const auto read = [&](const std::string& name) {
    const auto& [kept_name, array] = alive.emplace_back(name, item(name));
    return read_array(array, "load_state_dict", kept_name.c_str());
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
  state = ring.completed(std::move(state));
  std::vector<const std::uint8_t*> from;
  for (std::size_t c = 0; c < columns.size(); ++c)
    from.push_back(read("column." + stored[c].name).as<const std::uint8_t, 3>({lanes, state.used, columns[c].row_bytes}, "[N, written slots, bytes]").data);
  check_rows(self, state, columns, stored, from);
  std::vector<double> leaves;  // of all slots
  if (is_prioritized) {
    const auto given = read("priorities").as<const double, 2>({lanes, state.used}, "[N, written slots]");
    leaves.resize(static_cast<std::size_t>(ring.num_slots()));
    for (std::int64_t lane = 0; lane < lanes; ++lane) {
      for (std::int64_t offset = 0; offset < state.used; ++offset) {
        const double leaf = leaves[static_cast<std::size_t>(lane * ring.lane_capacity() + offset)] = given(lane, offset);
        const bool is_drawable = (state.flags[static_cast<std::size_t>(lane * state.used + offset)] & flag::drawable) != 0;
        const bool in_range = leaf == 0 || (leaf >= tree::least / 2 && leaf <= 2 * tree::most);
        PYRL_CHECK(in_range && (leaf > 0) == is_drawable, ArgumentError, "load_state_dict: priorities[", lane, ", ", offset, "] is ", leaf,
                   ", expected a positive number where a record can be drawn, else 0");
      }
    }
  }
  const RandomStream random = random_of(item("random"));
  std::vector<PyObject*> arrays;
  for (const auto& [name, array] : alive) arrays.push_back(array.ptr());
  const Call call = Call::long_one(arrays.data(), arrays.size());
  alone(self, [&] {
    ring.set_state(state);
    try {
      move_rows(ring, state.used, columns, [&](std::size_t c, std::int64_t at, std::uint8_t* row) { std::memcpy(row, from[c] + at, static_cast<std::size_t>(columns[c].row_bytes)); });
    } catch (...) {
      ring.clear();  // stopped: of the records before some are overwritten
      throw;
    }
    store.restore(taken.get(), leaves, caller);
    store.set_random(random, caller);
  });
}

}  // namespace pyrl::bindings
