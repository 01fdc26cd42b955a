// The replay's border: rows of any accepted kind in, batches of arrays out. The Python face is pyrl.buffers.ReplayBuffer.
#include <pybind11/stl.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "bindings/array_arg.hpp"
#include "bindings/fast_call.hpp"
#include "bindings/registry.hpp"
#include "core/philox.hpp"
#include "replay/lane_ring.hpp"
#include "replay/window_gather.hpp"

namespace py = pybind11;
using namespace pyrl;
using namespace pyrl::bindings;
using namespace pyrl::replay;

namespace {

// One array of a record: a leaf of the observation or action space, or an extra column.
struct Leaf {
  std::string name;
  DType dtype = DType::Other;
  std::vector<std::int64_t> shape;

  std::int64_t row_bytes() const {
    std::int64_t bytes = size_of(dtype);
    for (auto extent : shape) bytes *= extent;
    return bytes;
  }
};

DType dtype_named(const std::string& name, const std::string& leaf) {
  for (int i = 0; i < static_cast<int>(DType::Other); ++i)
    if (name == name_of(static_cast<DType>(i))) return static_cast<DType>(i);
  throw DTypeError(concat("ReplayBuffer: ", leaf, " has dtype ", name, ", which cannot be stored"));
}

// Reads the rows of one argument of `add`: in place where it already is what is stored, converted into memory of its own else.
class RowReader {
 public:
  RowReader(Leaf leaf, std::int64_t rows) : leaf_(std::move(leaf)), rows_(rows) {}
  const Leaf& leaf() const { return leaf_; }

  const void* read(py::handle object) {
    if (rows_ == 1 && leaf_.shape.empty() && read_scalar(object)) return converted_.data();
    kept_ = py::object();
    ArrayArg arg;
    if (py::isinstance<py::array>(object) || !is_plain(object)) {
      arg = read_array(object, "add", leaf_.name.c_str());
    } else {  // lists and NumPy scalars
      kept_ = py::module_::import("numpy").attr("asarray")(object);
      arg = read_array(kept_, "add", leaf_.name.c_str());
    }
    check_shape(arg);
    arg.require_cpu();
    if (arg.contiguous && (arg.dtype == leaf_.dtype || (leaf_.dtype == DType::Bool && arg.dtype == DType::UInt8))) return arg.data;
    if (arg.contiguous && arg.dtype == DType::Float64 && leaf_.dtype == DType::Float32) {
      converted_.resize(static_cast<std::size_t>(arg.size()) * sizeof(float));
      auto* to = reinterpret_cast<float*>(converted_.data());
      const auto* from = static_cast<const double*>(arg.data);
      for (std::int64_t i = 0; i < arg.size(); ++i) to[i] = static_cast<float>(from[i]);
      return to;
    }
    return cast_by_numpy(kept_ ? kept_ : py::reinterpret_borrow<py::object>(object), arg);
  }

  void release() { kept_ = py::object(); }

 private:
  // Python's own objects, which have neither dtype nor device.
  static bool is_plain(py::handle object) {
    return PyList_Check(object.ptr()) || PyTuple_Check(object.ptr()) || PyFloat_Check(object.ptr()) || PyLong_Check(object.ptr()) ||
           PyObject_HasAttrString(object.ptr(), "__array_interface__");
  }

  template <class T>
  bool keep(T value) {
    converted_.resize(sizeof(T));
    std::memcpy(converted_.data(), &value, sizeof(T));
    return true;
  }

  bool read_scalar(py::handle object) {
    if (leaf_.dtype == DType::Float32 && PyFloat_Check(object.ptr())) return keep(static_cast<float>(PyFloat_AS_DOUBLE(object.ptr())));
    if (leaf_.dtype == DType::Bool && PyBool_Check(object.ptr())) return keep(object.ptr() == Py_True);
    if (leaf_.dtype == DType::Int64 && PyLong_CheckExact(object.ptr())) return keep(static_cast<std::int64_t>(PyLong_AsLongLong(object.ptr())));
    return false;
  }

  // [N, ...shape], or [...shape] for one environment.
  void check_shape(const ArrayArg& arg) const {
    const int rank = static_cast<int>(leaf_.shape.size());
    const auto tail_equals = [&](int from) {
      for (int i = 0; i < rank; ++i)
        if (arg.shape[from + i] != leaf_.shape[i]) return false;
      return true;
    };
    if (arg.rank == rank + 1 && arg.shape[0] == rows_ && tail_equals(1)) return;
    if (rows_ == 1 && arg.rank == rank && tail_equals(0)) return;
    ArrayArg wanted;
    wanted.rank = rank + 1;
    wanted.shape[0] = rows_;
    for (int i = 0; i < rank; ++i) wanted.shape[i + 1] = leaf_.shape[i];
    throw ShapeError(concat("add: ", leaf_.name, " has shape ", arg.shape_text(), ", expected [N, ...] = ", wanted.shape_text()));
  }

  const void* cast_by_numpy(const py::object& object, const ArrayArg& arg) {
    const py::module_ numpy = py::module_::import("numpy");
    const py::object array = numpy.attr("asarray")(object), wanted = numpy.attr("dtype")(name_of(leaf_.dtype));
    const bool integer_reward = leaf_.name == "reward" && arg.dtype <= DType::UInt64;
    PYRL_CHECK(integer_reward || numpy.attr("can_cast")(array.attr("dtype"), wanted, "same_kind").cast<bool>(), DTypeError, "add: ", leaf_.name, " has dtype ",
               py::str(array.attr("dtype")).cast<std::string>(), ", expected ", name_of(leaf_.dtype));
    kept_ = numpy.attr("ascontiguousarray")(array, wanted);
    return read_array(kept_, "add", leaf_.name.c_str()).data;
  }

  Leaf leaf_;
  std::int64_t rows_;
  std::vector<char> converted_;
  py::object kept_;
};

class ReplayCore {
 public:
  using LeafSpec = std::tuple<std::string, std::string, std::vector<std::int64_t>>;  // name, dtype, shape

  ReplayCore(const std::vector<LeafSpec>& observation, const std::vector<LeafSpec>& columns, const StreamOptions& options, std::uint64_t key)
      : stream{key, 0} {
    const std::int64_t N = options.num_lanes, least = options.linked ? options.n_step + options.frame_stack : 1;
    PYRL_CHECK(N >= 1, ArgumentError, "ReplayBuffer: num_envs is ", N, ", expected at least 1");
    PYRL_CHECK(options.n_step >= 1, ArgumentError, "ReplayBuffer: n_step is ", options.n_step, ", expected at least 1");
    PYRL_CHECK(options.frame_stack >= 1, ArgumentError, "ReplayBuffer: frame_stack is ", options.frame_stack, ", expected at least 1");
    PYRL_CHECK(options.gamma >= 0 && options.gamma <= 1, ArgumentError, "ReplayBuffer: gamma is ", options.gamma, ", expected a number in [0, 1]");
    PYRL_CHECK(options.linked || (options.n_step == 1 && options.frame_stack == 1), ArgumentError,
               "ReplayBuffer: linked=False stores transitions without order, expected n_step=1 and frame_stack=1");
    PYRL_CHECK(options.capacity >= N * least, ArgumentError, "ReplayBuffer: capacity is ", options.capacity, ", expected at least ", N * least,
               " slots (num_envs * (n_step + frame_stack))");
    std::vector<Column> layout;
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
    for (const Column& column : layout) PYRL_CHECK(column.row_bytes > 0, ArgumentError, "ReplayBuffer: a space has no elements");
    reward_reader = RowReader({"reward", DType::Float32, {}}, N);
    terminated_reader = RowReader({"terminated", DType::Bool, {}}, N);
    truncated_reader = RowReader({"truncated", DType::Bool, {}}, N);
    valid_reader = RowReader({"valid", DType::Bool, {}}, N);
    ring = std::make_unique<LaneRing>(layout, options);
    const auto add_output = [&](const Leaf& leaf, const char* prefix, std::int64_t frames) {
      std::vector<std::int64_t> shape{0};
      if (frames > 1) shape.push_back(frames);
      shape.insert(shape.end(), leaf.shape.begin(), leaf.shape.end());
      outputs.push_back({std::string("out.") + prefix + leaf.name, leaf.dtype, shape});
    };
    for (const Leaf& leaf : observation_) add_output(leaf, "", options.frame_stack);
    for (const Leaf& leaf : observation_) add_output(leaf, "next_", options.frame_stack);
    for (const Leaf& leaf : columns_) add_output(leaf, "", 1);
    add_output({"reward", DType::Float32, {}}, "", 1);
    add_output({"terminated", DType::Bool, {}}, "", 1);
    add_output({"discount", DType::Float32, {}}, "", 1);
    add_output({"index", DType::Int64, {}}, "", 1);
  }

  const std::vector<Leaf>& observation() const { return observation_; }
  const std::vector<Leaf>& columns() const { return columns_; }

  std::unique_ptr<LaneRing> ring;
  RandomStream stream;
  std::vector<std::int64_t> slots;  // scratch of draws, under the ring's mutex
  // The arrays of a batch: observation leaves, next observation leaves, columns, reward, terminated, discount, index. The first
  // extent is the batch's, filled in under the interpreter's lock.
  std::vector<Leaf> outputs;
  std::vector<RowReader> observation_readers, next_observation_readers, column_readers;
  RowReader reward_reader{{}, 0}, terminated_reader{{}, 0}, truncated_reader{{}, 0}, valid_reader{{}, 0};

 private:
  static Leaf leaf_of(const LeafSpec& spec) {
    const auto& [name, dtype, shape] = spec;
    return {name, dtype_named(dtype, name), shape};
  }
  static Leaf renamed(Leaf leaf, std::string name) {
    leaf.name = std::move(name);
    return leaf;
  }

  std::vector<Leaf> observation_, columns_;
};

using Readers = std::vector<RowReader>;

// One leaf is given as itself, several as a tuple.
void read_leaves(Readers& readers, py::handle object, std::vector<const void*>& rows) {
  if (readers.size() == 1) {
    rows.push_back(readers[0].read(object));
    return;
  }
  for (std::size_t i = 0; i < readers.size(); ++i) rows.push_back(readers[i].read(PyTuple_GET_ITEM(object.ptr(), i)));
}

// (observation, columns, reward, next_observation, terminated, truncated, valid)
py::object add(ReplayCore& self, FastArgs args) {
  thread_local std::vector<const void*> observation, next_observation, columns;
  observation.clear();
  next_observation.clear();
  columns.clear();
  read_leaves(self.observation_readers, args[0], observation);
  read_leaves(self.next_observation_readers, args[3], next_observation);
  if (!self.ring->options().linked) columns = next_observation;
  read_leaves(self.column_readers, args[1], columns);
  AddArgs rows;
  rows.observation = observation.data();
  rows.next_observation = next_observation.data();
  rows.columns = columns.data();
  rows.reward = static_cast<const float*>(self.reward_reader.read(args[2]));
  rows.terminated = static_cast<const bool*>(self.terminated_reader.read(args[4]));
  rows.truncated = static_cast<const bool*>(self.truncated_reader.read(args[5]));
  if (!args[6].is_none()) rows.valid = static_cast<const bool*>(self.valid_reader.read(args[6]));
  const std::int64_t bad = self.ring->add(rows);
  if (bad >= 0) {
    py::set_error(py::module_::import("pyrl.errors").attr("NonFiniteError"),
                  concat("add: reward of environment ", bad, " is ", rows.reward[bad], ", expected a finite number").c_str());
    throw py::error_already_set();
  }
  return py::none();
}

// The arrays of a batch, in the order of ReplayCore::outputs, given or fresh.
class Outputs {
 public:
  Outputs(ReplayCore& core, std::int64_t count, Kind kind, py::handle out) : arrays(core.outputs.size()) {
    const std::size_t leaves = core.observation().size(), total = core.outputs.size();
    PYRL_CHECK(out.is_none() || (PyTuple_Check(out.ptr()) && PyTuple_GET_SIZE(out.ptr()) == static_cast<py::ssize_t>(total)), ArgumentError,
               "sample: out has other fields than this buffer's batches");
    thread_local std::vector<void*> pointers;
    pointers.resize(total);
    for (std::size_t i = 0; i < total; ++i) {
      Leaf& leaf = core.outputs[i];
      leaf.shape[0] = count;
      py::object array;
      if (out.is_none()) {
        array = empty_like_kind(kind, leaf.dtype, leaf.shape, &pointers[i]);
      } else {
        array = py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(out.ptr(), i));
        const ArrayArg arg = read_array(array, "sample", leaf.name.c_str());
        arg.require_cpu();
        arg.require_dtype(leaf.dtype);
        arg.require_shape(leaf.shape, "[B, ...]");
        arg.require_contiguous();
        arg.require_writable();
        pointers[i] = arg.data;
      }
      PyTuple_SET_ITEM(arrays.ptr(), static_cast<py::ssize_t>(i), array.release().ptr());
    }
    // Without links the next observations are the ring's first columns that are no observation.
    gather.observation = pointers.data();
    gather.next_observation = pointers.data() + leaves;
    gather.columns = pointers.data() + (core.ring->options().linked ? 2 * leaves : leaves);
    gather.reward = static_cast<float*>(pointers[total - 4]);
    gather.terminated = static_cast<bool*>(pointers[total - 3]);
    gather.discount = static_cast<float*>(pointers[total - 2]);
    index = static_cast<std::int64_t*>(pointers[total - 1]);
    gather.count = count;
  }

  py::tuple arrays;
  GatherArgs gather;
  std::int64_t* index = nullptr;
};

Kind kind_arg(py::handle torch) { return torch.ptr() == Py_True ? Kind::Torch : Kind::NumPy; }

// (batch_size, replacement, torch, out) -> tuple of arrays
py::object sample(ReplayCore& self, FastArgs args) {
  const std::int64_t count = integer_arg(args[0], "sample", "batch_size"), stored = self.ring->size();
  PYRL_CHECK(count >= 1, ArgumentError, "sample: batch_size is ", count, ", expected at least 1");
  PYRL_CHECK(count <= stored, ArgumentError, "sample: batch_size is ", count, ", but only ", stored, " transitions are stored");
  Outputs out(self, count, kind_arg(args[2]), args[3]);
  const bool replacement = args[1].ptr() == Py_True;
  {
    ReleaseGil released;
    const std::lock_guard<std::mutex> lock(self.ring->mutex());
    self.slots.resize(static_cast<std::size_t>(count));
    const RandomStream stream{self.stream.key, self.stream.next_draw()};
    replacement ? self.ring->draw(stream, count, out.index, self.slots.data()) : self.ring->draw_distinct(stream, count, out.index, self.slots.data());
    out.gather.slots = self.slots.data();
    gather(*self.ring, out.gather);
  }
  return out.arrays;
}

// (index, torch, out) -> tuple of arrays
py::object get(ReplayCore& self, FastArgs args) {
  const auto index = read_array(args[0], "get", "index").as<const std::int64_t, 1>("[B]");
  const std::int64_t count = index.extent[0];
  Outputs out(self, count, kind_arg(args[1]), args[2]);
  std::int64_t stale = 0;
  {
    ReleaseGil released;
    const std::lock_guard<std::mutex> lock(self.ring->mutex());
    self.slots.resize(static_cast<std::size_t>(count));
    stale = self.ring->find(index.data, count, self.slots.data());
    if (stale == 0) {
      std::copy_n(index.data, count, out.index);
      out.gather.slots = self.slots.data();
      gather(*self.ring, out.gather);
    }
  }
  PYRL_CHECK(stale == 0, ArgumentError, "get: ", stale, " of ", count, " records are no longer (or not) drawable");
  return out.arrays;
}

py::array_t<bool> drawable(ReplayCore& self, const py::array_t<std::int64_t, py::array::c_style>& index) {
  std::vector<std::int64_t> slots(static_cast<std::size_t>(index.size()));
  {
    const std::lock_guard<std::mutex> lock(self.ring->mutex());
    self.ring->find(index.data(), index.size(), slots.data());
  }
  py::array_t<bool> found(index.size());
  for (py::ssize_t i = 0; i < index.size(); ++i) found.mutable_at(i) = slots[static_cast<std::size_t>(i)] >= 0;
  return found;
}

py::array_t<std::int64_t> shuffled(ReplayCore& self) {
  const std::lock_guard<std::mutex> lock(self.ring->mutex());
  py::array_t<std::int64_t> index(self.ring->size());
  self.slots.resize(static_cast<std::size_t>(index.size()));
  self.ring->draw_distinct({self.stream.key, self.stream.next_draw()}, index.size(), index.mutable_data(), self.slots.data());
  return index;
}

// Columns [env, start, end, begins, ended]: `ended` holds the end flags of the last transition, 0 while the episode goes on.
py::array_t<std::int64_t> episodes(ReplayCore& self) {
  const std::lock_guard<std::mutex> lock(self.ring->mutex());
  const auto spans = self.ring->episodes();
  py::array_t<std::int64_t> table({static_cast<py::ssize_t>(spans.size()), py::ssize_t{5}});
  auto rows = table.mutable_unchecked<2>();
  for (std::size_t i = 0; i < spans.size(); ++i) {
    const EpisodeSpan& span = spans[i];
    const std::int64_t values[] = {span.lane, span.start, span.end, (span.flags & flag::start) != 0, span.flags & flag::end};
    for (int c = 0; c < 5; ++c) rows(static_cast<py::ssize_t>(i), c) = values[c];
  }
  return table;
}

// The bytes of every column, hot or cold, in slot order: [num_slots, row_bytes] each; the reward's first.
template <class Copy>
void for_each_column(ReplayCore& self, const Copy& copy) {
  const Column reward{sizeof(float), sizeof(float), false, true, 0};
  copy("reward", reward);
  std::vector<std::string> names;
  for (const Leaf& leaf : self.observation()) names.push_back(leaf.name);
  if (!self.ring->options().linked)
    for (const Leaf& leaf : self.observation()) names.push_back("next_" + leaf.name);
  for (const Leaf& leaf : self.columns()) names.push_back(leaf.name);
  for (std::size_t i = 0; i < names.size(); ++i) copy(names[i], self.ring->layout().columns()[i]);
}

py::dict state(ReplayCore& self) {
  const std::lock_guard<std::mutex> lock(self.ring->mutex());
  LaneRing& ring = *self.ring;
  py::dict saved;
  const auto copy = [](const auto& values) { return py::array_t<typename std::decay_t<decltype(values)>::value_type>(static_cast<py::ssize_t>(values.size()), values.data()); };
  saved["origins"] = copy(ring.origins());
  saved["heads"] = copy(ring.heads());
  saved["pending"] = copy(ring.pending());
  saved["flags"] = copy(ring.flag_bytes());
  for_each_column(self, [&](const std::string& name, const Column& column) {
    py::array_t<std::uint8_t> rows({ring.num_slots(), column.row_bytes});
    for (std::int64_t slot = 0; slot < ring.num_slots(); ++slot)
      std::memcpy(rows.mutable_data(slot, 0), ring.row(column, slot), static_cast<std::size_t>(column.row_bytes));
    saved[py::str("column." + name)] = rows;
  });
  saved["random"] = py::make_tuple(self.stream.key, std::uint64_t{0}, self.stream.draw);
  return saved;
}

void set_state(ReplayCore& self, const py::dict& saved) {
  const std::lock_guard<std::mutex> lock(self.ring->mutex());
  LaneRing& ring = *self.ring;
  // All is read and checked before anything is written.
  const auto bytes_of = [&](const std::string& name, std::int64_t wanted) {
    PYRL_CHECK(saved.contains(name), ArgumentError, "load_state_dict: ", name, " is missing");
    const auto array = py::array::ensure(saved[py::str(name)], py::array::c_style);
    PYRL_CHECK(array && array.nbytes() == wanted, ShapeError, "load_state_dict: ", name, " has ", array ? array.nbytes() : 0, " bytes, expected ", wanted,
               " (another capacity, space or number of environments?)");
    return array;
  };
  const std::int64_t lanes = ring.options().num_lanes;
  const auto origins = bytes_of("origins", lanes * 8), heads = bytes_of("heads", lanes * 8), pending = bytes_of("pending", lanes), flags = bytes_of("flags", ring.num_slots());
  std::vector<py::array> rows;
  for_each_column(self, [&](const std::string& name, const Column& column) { rows.push_back(bytes_of("column." + name, ring.num_slots() * column.row_bytes)); });
  const auto random = saved["random"].cast<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>>();
  const auto* origin = static_cast<const std::int64_t*>(origins.data());
  const auto* head = static_cast<const std::int64_t*>(heads.data());
  for (std::int64_t lane = 0; lane < lanes; ++lane)
    PYRL_CHECK(origin[lane] >= 0 && origin[lane] % ring.lane_capacity() == 0 && head[lane] >= origin[lane], ArgumentError, "load_state_dict: heads of lane ", lane, " are impossible");

  std::copy_n(origin, lanes, ring.origins().begin());
  std::copy_n(head, lanes, ring.heads().begin());
  std::copy_n(static_cast<const std::uint8_t*>(pending.data()), lanes, ring.pending().begin());
  std::copy_n(static_cast<const std::uint8_t*>(flags.data()), ring.num_slots(), ring.flag_bytes().begin());
  std::size_t next = 0;
  for_each_column(self, [&](const std::string&, const Column& column) {
    const auto* source = static_cast<const std::uint8_t*>(rows[next++].data());
    for (std::int64_t slot = 0; slot < ring.num_slots(); ++slot)
      std::memcpy(ring.row(column, slot), source + slot * column.row_bytes, static_cast<std::size_t>(column.row_bytes));
  });
  ring.state_was_set();
  self.stream = {std::get<0>(random), std::get<2>(random)};
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
      .def_property_readonly("nbytes", [](const ReplayCore& self) { return self.ring->nbytes(); })
      .def_property_readonly("record_bytes", [](const ReplayCore& self) { return self.ring->layout().stride(); })
      .def("clear", [](ReplayCore& self) { self.ring->clear(); })
      .def("drawable", &drawable, py::arg("index"))
      .def("shuffled", &shuffled)
      .def("episodes", &episodes)
      .def("state", &state)
      .def("set_state", &set_state, py::arg("state"));
  def_fast_method<ReplayCore, add, 7>(core, "add", "add(observation, columns, reward, next_observation, terminated, truncated, valid)");
  def_fast_method<ReplayCore, sample, 4>(core, "sample", "sample(batch_size, replacement, torch, out)");
  def_fast_method<ReplayCore, get, 3>(core, "get", "get(index, torch, out)");
}
