// Single columns of records, the records of windows, and the goals of hindsight; for a ring in host memory.
#include "replay/select/hindsight.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include "bindings/replay_core.hpp"
#include "core/interrupt.hpp"
#include "replay/row.hpp"

namespace pyrl::bindings {

using namespace pyrl::replay;

namespace {

void check_host(const ReplayCore& self, const char* function) {
  PYRL_CHECK(!self.location.device.is_cuda(), DeviceError, function, ": the records of this buffer are on ", self.location.device.text(), ", expected a buffer on the CPU");
}

// The slots of these records, all of them transitions.
std::vector<std::int64_t> slots_of(const ReplayCore& self, const ArrayView<const std::int64_t, 1>& index, const char* function) {
  std::vector<std::int64_t> slots(static_cast<std::size_t>(index.extent[0]));
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (i % (1 << 16) == 0) check_interrupt();
    slots[i] = transition_slot(self.ring().view(), index.data[i]);
    PYRL_CHECK(slots[i] >= 0, ArgumentError, function, ": index[", i, "] is ", index.data[i], ", a record that is no longer (or not) stored");
  }
  return slots;
}

ArrayView<const std::int64_t, 1> index_arg(py::handle object, const char* function) { return read_array(object, function, "index").as<const std::int64_t, 1>("[B]"); }

GoalStrategy strategy_of(const std::string& name) {
  if (name == "future") return GoalStrategy::future;
  if (name == "final") return GoalStrategy::final;
  PYRL_CHECK(name == "episode", ArgumentError, "goals: strategy is '", name, "', expected future, final or episode");
  return GoalStrategy::episode;
}

// What a name of `column` stands for.
struct NamedColumn {
  Column column;
  Leaf leaf;
  bool of_next = false;  // read it from the record's next slot
};

NamedColumn named_column(const ReplayCore& self, const std::string& name) {
  const std::vector<Column> columns = self.stored_columns();
  const std::vector<Leaf> leaves = self.stored_leaves();
  const bool linked = self.ring().options().linked;
  for (const bool of_next : {false, true}) {
    if (of_next && (!linked || !name.starts_with("next_observation"))) break;
    const std::string wanted = of_next ? name.substr(5) : name;
    const auto found = std::find_if(leaves.begin(), leaves.end(), [&](const Leaf& leaf) { return leaf.name == wanted; });
    if (found == leaves.end()) continue;
    const auto i = static_cast<std::size_t>(found - leaves.begin());
    return {columns[i], leaves[i], of_next};
  }
  std::string known;
  for (const Leaf& leaf : leaves) known += (known.empty() ? "" : ", ") + leaf.name;
  throw ArgumentError(concat("column: name is '", name, "', expected one of ", known, " or the next_ of an observation"));
}

}  // namespace

py::object read_column(ReplayCore& self, const std::string& name, py::handle index_object) {
  const Call call = Call::long_one(&index_object.ptr(), 1);
  check_host(self, "column");
  const auto index = index_arg(index_object, "column");
  const NamedColumn named = named_column(self, name);
  std::vector<py::ssize_t> shape{static_cast<py::ssize_t>(index.extent[0])};
  shape.insert(shape.end(), named.leaf.shape.begin(), named.leaf.shape.end());
  py::array rows(py::dtype(name_of(named.leaf.dtype)), shape);
  auto* const to = static_cast<std::uint8_t*>(rows.mutable_data());
  alone(self, [&] {
    const RingView& view = self.ring().view();
    const std::vector<std::int64_t> slots = slots_of(self, index, "column");
    const std::int64_t bytes = named.column.row_bytes;
    for (std::size_t i = 0; i < slots.size(); ++i)
      copy_row(to + static_cast<std::int64_t>(i) * bytes, view.row(named.column, named.of_next ? view.next_slot(slots[i]) : slots[i]), bytes);
  });
  return rows;
}

py::array_t<std::int64_t> steps(ReplayCore& self, py::handle index_object, std::int64_t n_step) {
  const Call call = Call::long_one(&index_object.ptr(), 1);
  check_host(self, "steps");
  const auto index = index_arg(index_object, "steps");
  const int length = ReplayCore::window_arg(n_step, "steps", "n_step");
  PYRL_CHECK(length <= self.ring().lane_capacity(), ArgumentError, "steps: n_step is ", length, ", expected at most ", self.ring().lane_capacity(), ", the slots of an environment");
  py::array_t<std::int64_t> records({static_cast<py::ssize_t>(index.extent[0]), static_cast<py::ssize_t>(length)});
  std::int64_t* const to = records.mutable_data();
  alone(self, [&] { window_indices(self.ring(), slots_of(self, index, "steps").data(), index.extent[0], length, to); });
  return records;
}

py::array_t<std::int64_t> goals(ReplayCore& self, py::handle index_object, const std::string& strategy, double share) {
  const Call call = Call::long_one(&index_object.ptr(), 1);
  check_host(self, "goals");
  const auto index = index_arg(index_object, "goals");
  PYRL_CHECK(share >= 0 && share <= 1, ArgumentError, "goals: share is ", share, ", expected a number in [0, 1]");
  HindsightArgs args;
  args.count = index.extent[0];
  args.strategy = strategy_of(strategy);
  args.share = share;
  py::array_t<std::int64_t> source(args.count);
  args.source = source.mutable_data();
  alone(self, [&] {
    const std::vector<std::int64_t> slots = slots_of(self, index, "goals");
    args.slots = slots.data();
    RandomStream random = self.store->random({});
    draw_goals(self.ring(), RandomStream{random.key, random.next_draw()}, args);
    self.store->set_random(random, {});
  });
  return source;
}

}  // namespace pyrl::bindings
