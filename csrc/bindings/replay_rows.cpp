// Rows that come into a replay: one step, or a block of steps.
#include <algorithm>
#include <memory>
#include <vector>

#include "bindings/replay_core.hpp"
#include "bindings/tensor_arg.hpp"

namespace pyrl::bindings {

using namespace pyrl::replay;

namespace {

// Memory for one call. Several are in use where a conversion by NumPy lets another thread, or a destructor, add in between.
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

// The first leaf: one is given as itself, several as a tuple.
py::handle first_leaf(const ReplayCore& self, py::handle observation) {
  return self.observation_readers.size() == 1 ? observation : py::handle(PyTuple_GET_ITEM(observation.ptr(), 0));
}

template <class Read>
void read_leaves(const std::vector<RowReader>& readers, py::handle object, std::vector<const void*>& rows, const Read& read) {
  if (readers.size() == 1) return rows.push_back(read(readers[0], object));
  for (std::size_t i = 0; i < readers.size(); ++i) rows.push_back(read(readers[i], PyTuple_GET_ITEM(object.ptr(), static_cast<py::ssize_t>(i))));
}

// Whether the rows are on the store's GPU; the first leaf of the observation decides.
bool rows_are_there(const ReplayCore& self, py::handle observation, const char* function) {
  if (!self.location.device.is_cuda()) return false;
  const Device device = device_of(first_leaf(self, observation));
  PYRL_CHECK(device.is_cpu() || self.store->takes_device_rows(), DeviceError, function, ": observation is on ", device.text(),
             ", expected the CPU (a buffer with host_copy=True keeps its records there)");
  return !device.is_cpu();
}

// read(reader, argument): where the rows are. Arguments: observation, action, reward, next_observation, terminated, truncated, valid or None,
// and the extra columns as a dict by name, or None.
template <class Read>
AddArgs read_rows(const ReplayCore& self, FastArgs args, RowScratch& scratch, const char* function, const Read& read) {
  read_leaves(self.observation_readers, args[0], scratch.observation, read);
  read_leaves(self.next_observation_readers, args[3], scratch.next_observation, read);
  if (!self.ring().options().linked) scratch.columns = scratch.next_observation;
  scratch.columns.push_back(read(self.column_readers[0], args[1]));
  const std::size_t extra = self.extra_names.size();
  const std::size_t given = args[7].is_none() ? 0 : PyDict_Check(args[7].ptr()) ? static_cast<std::size_t>(PyDict_Size(args[7].ptr())) : extra + 1;
  PYRL_CHECK(given == extra, ArgumentError, function, ": ", given, " extra columns are given, expected ", extra);
  for (std::size_t c = 0; c < extra; ++c) {
    PyObject* const rows = PyDict_GetItemWithError(args[7].ptr(), self.extra_names[c].ptr());
    PYRL_CHECK(rows != nullptr, ArgumentError, function, ": the extra column ", self.columns()[c + 1].name, " is missing");
    scratch.columns.push_back(read(self.column_readers[c + 1], rows));
  }
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

AddArgs read_block(const ReplayCore& self, FastArgs args, RowScratch& scratch, const RowBlock& block, bool there) {
  if (there) return read_rows(self, args, scratch, block.function, [&](const RowReader& reader, py::handle rows) { return reader.read_at(rows, self.location, block); });
  return read_rows(self, args, scratch, block.function, [&](const RowReader& reader, py::handle rows) { return reader.read(rows, scratch, block); });
}

[[noreturn]] void refuse_reward(const std::string& message) {
  py::set_error(py::module_::import("pyrl.errors").attr("NonFiniteError"), message.c_str());
  throw py::error_already_set();
}

// To the rows of the next step. The pointers of `rows` are those of the scratch.
void next_step(const ReplayCore& self, RowScratch& scratch, AddArgs& rows) {
  const std::int64_t lanes = rows.num_rows;
  const auto advance = [&](std::vector<const void*>& pointers, const std::vector<Column>& columns, std::size_t first) {
    for (std::size_t i = 0; i < pointers.size(); ++i)
      pointers[i] = static_cast<const std::uint8_t*>(pointers[i]) + lanes * columns[first + i].row_bytes;
  };
  const std::vector<Column>& columns = self.ring().layout().columns();
  advance(scratch.observation, columns, 0);
  advance(scratch.next_observation, columns, 0);
  advance(scratch.columns, columns, self.observation().size());
  rows.reward += lanes;
  rows.terminated += lanes;
  rows.truncated += lanes;
  if (rows.valid != nullptr) rows.valid += lanes;
  if (rows.index != nullptr) rows.index += lanes;
}

// T of an array [T, N].
std::int64_t length_of(const ReplayCore& self, py::handle reward, RowScratch& scratch) {
  const Py_ssize_t steps = PyObject_Size(reward.ptr());
  if (steps >= 0) return steps;
  if (!PyErr_ExceptionMatches(PyExc_Exception)) throw py::error_already_set();  // Ctrl-C
  PyErr_Clear();
  self.reward_reader.read(reward, scratch, {"extend", 1});  // names what is wrong with it, where that is more than its shape
  throw ShapeError("extend: reward has no dimension of time, expected an array [T, N]");
}

}  // namespace

// (observation, action, reward, next_observation, terminated, truncated, valid, extra)
py::object add(ReplayCore& self, FastArgs args) {
  RowLease lease(self);
  const bool there = rows_are_there(self, args[0], "add");
  const AddArgs rows = read_block(self, args, *lease, {"add"}, there);
  const CudaStream caller = self.caller_stream("add");
  const std::int64_t bad = alone(self, [&] { return self.store->add(rows, there, caller); }, ReleaseGil::When::if_busy);
  if (bad >= 0) refuse_reward(concat("add: reward of environment ", bad, " is ", rows.reward[bad], ", expected a finite number"));
  return py::none();
}

// The same with arrays [T, N, ...]; or, with (first_lane, lanes), [T, lanes, ...] of these neighbours -> int64 [T, lanes]: indices of the records
py::object extend(ReplayCore& self, FastArgs args) {
  RowLease lease(self);
  const std::int64_t steps = length_of(self, args[2], *lease), all = self.ring().options().num_lanes;
  const bool some = !args[8].is_none(), there = rows_are_there(self, args[0], "extend");
  const std::int64_t first = some ? integer_arg(args[8]) : 0, lanes = some ? integer_arg(args[9]) : all;
  PYRL_CHECK(!some || !self.location.device.is_cuda(), DeviceError, "extend: the buffer is on ", self.location.device.text(), ", expected rows of all environments");
  PYRL_CHECK(lanes >= 1 && first >= 0 && first <= all - lanes, ArgumentError, "extend: rows of environments ", first, " to ", first + lanes - 1, ", expected some of 0 to ",
             all - 1);
  AddArgs rows = read_block(self, args, *lease, {"extend", steps, lanes}, there);
  rows.first_lane = first;
  rows.num_rows = lanes;
  const CudaStream caller = self.caller_stream("extend");
  const std::int64_t bad = there ? -1 : rows.first_bad_reward(steps * lanes);
  if (bad >= 0)
    refuse_reward(concat("extend: reward of step ", bad / lanes, ", environment ", first + bad % lanes, " is ", rows.reward[bad], ", expected a finite number"));
  py::object index = py::none();
  if (some) rows.index = allocate<std::int64_t, 2>(index, Location(Kind::NumPy), {steps, lanes}).data;
  alone(self, [&] {
    self.store->prepare_extend(there, caller);
    for (std::int64_t t = 0; t < steps; ++t) {
      self.store->add(rows, there, caller);
      if (t + 1 < steps) next_step(self, *lease, rows);
    }
  });
  return index;
}

}  // namespace pyrl::bindings
