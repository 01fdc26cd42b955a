#include "bindings/replay_core.hpp"

#include <algorithm>
#include <limits>

#include "bindings/cuda_arg.hpp"
#include "bindings/tensor_arg.hpp"
#include "replay/gpu/store.hpp"
#include "replay/host_store.hpp"

namespace pyrl::bindings {

using namespace pyrl::replay;

namespace {

Leaf leaf_of(const ReplayCore::LeafSpec& spec) {
  const auto& [name, dtype, shape] = spec;
  PYRL_CHECK(shape.size() + 2 <= ArrayArg::max_rank, ShapeError, "ReplayBuffer: ", name, " has ", shape.size(), " dimensions, at most ",
             ArrayArg::max_rank - 2, " are supported");
  for (const std::int64_t extent : shape) PYRL_CHECK(extent >= 0, ShapeError, "ReplayBuffer: ", name, " has an extent of ", extent, ", expected at least 0");
  return {name, dtype_named(dtype, name), shape};
}

Leaf renamed(const char* prefix, Leaf leaf) {
  leaf.name = prefix + leaf.name;
  return leaf;
}

void check_options(const StreamOptions& options) {
  const std::int64_t N = options.num_lanes, least = options.linked ? std::int64_t{options.n_step} + options.frame_stack : 1;
  PYRL_CHECK(N >= 1, ArgumentError, "ReplayBuffer: num_envs is ", N, ", expected at least 1");
  PYRL_CHECK(options.gamma >= 0 && options.gamma <= 1, ArgumentError, "ReplayBuffer: gamma is ", options.gamma, ", expected a number in [0, 1]");
  PYRL_CHECK(options.linked || (options.n_step == 1 && options.frame_stack == 1), ArgumentError,
             "ReplayBuffer: linked=False stores transitions without order, expected n_step=1 and frame_stack=1");
  PYRL_CHECK(options.capacity / N >= least, ArgumentError, "ReplayBuffer: capacity is ", options.capacity, ", expected at least ",
             N <= std::numeric_limits<std::int64_t>::max() / least ? std::to_string(N * least) : "2^63", " slots (num_envs * (n_step + frame_stack))");
}

// Observations, next observations if they are not linked, the rest.
std::vector<Column> layout_of(const std::vector<Leaf>& observation, const std::vector<Leaf>& columns, bool linked) {
  std::vector<Column> layout;
  const auto list = [&](const std::vector<Leaf>& leaves, bool is_observation) {
    for (const Leaf& leaf : leaves) layout.push_back({leaf.row_bytes(), size_of(leaf.dtype), is_observation});
  };
  list(observation, true);
  if (!linked) list(observation, false);
  list(columns, false);
  for (const Column& column : layout) PYRL_CHECK(column.row_bytes > 0, ArgumentError, "ReplayBuffer: a space has no elements");
  return layout;
}

std::vector<Leaf> leaves_of(const std::vector<ReplayCore::LeafSpec>& specs) {
  std::vector<Leaf> leaves;
  for (const ReplayCore::LeafSpec& spec : specs) leaves.push_back(leaf_of(spec));
  return leaves;
}

}  // namespace

int ReplayCore::window_arg(std::int64_t length, const char* function, const char* name) {
  constexpr std::int64_t most = std::int64_t{1} << 30;
  PYRL_CHECK(length >= 1, ArgumentError, function, ": ", name, " is ", length, ", expected at least 1");
  PYRL_CHECK(length <= most, ArgumentError, function, ": ", name, " is ", length, ", expected at most ", most);
  return static_cast<int>(length);
}

ReplayCore::ReplayCore(const std::vector<LeafSpec>& observation, const std::vector<LeafSpec>& columns, const StreamOptions& options, std::uint64_t key)
    : reward_reader({"reward", DType::Float32, {}}, options.num_lanes),
      terminated_reader({"terminated", DType::Bool, {}}, options.num_lanes),
      truncated_reader({"truncated", DType::Bool, {}}, options.num_lanes),
      valid_reader({"valid", DType::Bool, {}}, options.num_lanes) {
  check_options(options);
  observation_ = leaves_of(observation);
  columns_ = leaves_of(columns);
  for (const Leaf& leaf : observation_) {
    observation_readers.emplace_back(leaf, options.num_lanes);
    next_observation_readers.emplace_back(renamed("next_", leaf), options.num_lanes);
    out_observation.push_back(renamed("out.", leaf));
    out_next_observation.push_back(renamed("out.next_", leaf));
  }
  for (const Leaf& leaf : columns_) {
    column_readers.emplace_back(leaf, options.num_lanes);
    out_columns.push_back(renamed("out.", leaf));
    if (column_readers.size() > 1) extra_names.emplace_back(leaf.name);
  }
  store = std::make_unique<HostStore>(std::make_unique<LaneRing>(layout_of(observation_, columns_, options.linked), options), RandomStream{key, 0});
}

std::int64_t ReplayCore::forecast(const std::vector<LeafSpec>& observation, const std::vector<LeafSpec>& columns, const StreamOptions& options,
                                  bool prioritized, bool on_device, bool host_copy) {
  check_options(options);
  const std::int64_t slots = options.capacity / options.num_lanes * options.num_lanes;
  const RecordLayout layout(layout_of(leaves_of(observation), leaves_of(columns), options.linked), slots);
  const std::int64_t there = on_device ? DeviceRing::nbytes(layout, options, prioritized) : 0;
  const std::int64_t here = !on_device || host_copy ? LaneRing::nbytes(layout, options) : 0;
  return here + there + (prioritized && !on_device ? SumTree::nbytes(slots) : 0);
}

void ReplayCore::move_to(const std::string& name, bool host_copy) {
  PYRL_CHECK(!location.device.is_cuda() && !store->is_prioritized(), ArgumentError, "ReplayBuffer: its records have their place already");
  CudaStream caller{"ReplayBuffer", std::stoi(name.substr(name.find(':') + 1))};
  const Location there(Kind::Torch, Device{caller.device}, "this buffer");
  std::unique_ptr<RingDevice> made;
  if constexpr (cuda_built) made = cuda_ring_device(caller.device);
  PYRL_CHECK(made != nullptr, DeviceError, "ReplayBuffer: device is ", name, ", and this build of pyrl has no CUDA; build it with PYRL_CUDA=ON (docs/cuda.md)");
  caller.handle = current_stream(there.device);
  const RandomStream random = store->random(caller);
  auto empty = std::make_unique<LaneRing>(ring().layout().columns(), ring().options());
  if (host_copy) {
    store = std::make_unique<MirroredStore>(std::move(empty), std::move(made), random, caller);
  } else {
    store = std::make_unique<DeviceStore>(std::move(empty), std::move(made), random, caller);
  }
  location = there;
  process_ = lineage();
}

void ReplayCore::prioritize(double alpha, double epsilon) {
  PYRL_CHECK(alpha >= 0 && alpha <= 1, ArgumentError, "PrioritizedReplayBuffer: alpha is ", alpha, ", expected a number in [0, 1]");
  PYRL_CHECK(epsilon >= tree::least && epsilon <= tree::most, ArgumentError, "PrioritizedReplayBuffer: epsilon is ", epsilon, ", expected a number in [", tree::least,
             ", ", tree::most, "]");
  PYRL_CHECK(!store->is_prioritized() && ring().filled() == 0, ArgumentError, "PrioritizedReplayBuffer: the core is prioritized or filled already, expected a new one");
  const CudaStream caller = caller_stream("PrioritizedReplayBuffer");
  alone(*this, [&] { store->prioritize({alpha, epsilon}, caller); });
}

CudaStream ReplayCore::device_stream(const char* function) const {
  PYRL_CHECK(lineage() == process_, DeviceError, function, ": this buffer's records are on ", location.device.text(),
             " in the process that forked this one; nothing of CUDA can be used in a forked child, start it with spawn");
  return {function, location.device.number, current_stream(location.device)};
}

std::vector<Column> ReplayCore::stored_columns() const {
  std::vector<Column> stored{{sizeof(float), sizeof(float), false, true, 0, ring().layout().stride()}};
  stored.insert(stored.end(), ring().layout().columns().begin(), ring().layout().columns().end());
  return stored;
}

std::vector<Leaf> ReplayCore::stored_leaves() const {
  std::vector<Leaf> leaves{{"reward", DType::Float32, {}}};
  leaves.insert(leaves.end(), observation_.begin(), observation_.end());
  if (!ring().options().linked)
    for (const Leaf& leaf : observation_) leaves.push_back({"next_" + leaf.name, leaf.dtype, leaf.shape});
  leaves.insert(leaves.end(), columns_.begin(), columns_.end());
  return leaves;
}

Workspace::Workspace(const ReplayCore& self, std::int64_t bytes) {
  if (self.location.device.is_cuda() && bytes > 0) owner = device_space(self.location, bytes, &data);
}

void check_drawable(const char* function, const std::int64_t* index, std::int64_t missing, const WindowLengths& window) {
  if (missing < 0) return;
  const std::string value = index == nullptr ? "" : concat(index[missing], ", ");
  throw ArgumentError(concat(function, ": index[", missing, "] is ", value, "a record that is no longer (or not) drawable",
                             window.frame_stack > 1 ? concat(" with ", window.frame_stack, " frames") : std::string()));
}

// -- batches ------------------------------------------------------------------------------------------------------------------------

Outputs::Outputs(Border& border, const ReplayCore& core, std::int64_t count, const WindowLengths& window, const Location& location, py::handle out) {
  const bool given = !out.is_none();
  const auto check = [&](bool holds) {
    PYRL_CHECK(holds, ArgumentError, border.function, ": out has other fields than this buffer's batches");
  };
  check(!given || (PyTuple_Check(out.ptr()) && PyTuple_GET_SIZE(out.ptr()) == PyTuple_GET_SIZE(fields.ptr())));
  const auto field = [&](py::ssize_t i) { return given ? py::handle(PyTuple_GET_ITEM(out.ptr(), i)) : out; };
  const auto array = [&](const Leaf& leaf, int frames, py::handle own, void*& data) {
    std::array<std::int64_t, ArrayArg::max_rank> extents{count, frames};
    const std::size_t leading = frames > 1 ? 2 : 1;
    std::copy(leaf.shape.begin(), leaf.shape.end(), extents.begin() + leading);
    py::object made;
    data = border.result(made, own, location, leaf.dtype, {extents.data(), leaf.shape.size() + leading}, leaf.name.c_str(), "[B, ...]");
    return made;
  };
  const auto set = [&](py::ssize_t i, py::object value) { PyTuple_SET_ITEM(fields.ptr(), i, value.release().ptr()); };
  const auto observations = [&](py::ssize_t i, const std::vector<Leaf>& leaves, void** data) {
    if (leaves.size() == 1) return set(i, array(leaves[0], window.frame_stack, field(i), *data));
    check(!given || (PyTuple_Check(field(i).ptr()) && PyTuple_GET_SIZE(field(i).ptr()) == static_cast<py::ssize_t>(leaves.size())));
    py::tuple made(leaves.size());
    for (std::size_t k = 0; k < leaves.size(); ++k) {
      const auto at = static_cast<py::ssize_t>(k);
      py::object one = array(leaves[k], window.frame_stack, given ? py::handle(PyTuple_GET_ITEM(field(i).ptr(), at)) : out, data[k]);
      PyTuple_SET_ITEM(made.ptr(), at, one.release().ptr());
    }
    set(i, std::move(made));
  };
  const std::size_t leaves = core.observation().size(), columns = core.columns().size();
  data_.resize(2 * leaves + columns);
  void** const column_data = data_.data() + 2 * leaves;
  void *reward = nullptr, *terminated = nullptr, *discount = nullptr, *names = nullptr;
  observations(0, core.out_observation, data_.data());
  set(1, array(core.out_columns[0], 1, field(1), column_data[0]));
  set(2, array(core.out_reward, 1, field(2), reward));
  observations(3, core.out_next_observation, data_.data() + leaves);
  set(4, array(core.out_terminated, 1, field(4), terminated));
  set(5, array(core.out_discount, 1, field(5), discount));
  set(6, array(core.out_index, 1, field(6), names));
  if (columns > 1) {
    py::dict extra;
    check(!given || PyDict_Check(field(7).ptr()));
    for (std::size_t c = 1; c < columns; ++c) {
      const py::str& name = core.extra_names[c - 1];
      PyObject* const own = given ? PyDict_GetItemWithError(field(7).ptr(), name.ptr()) : out.ptr();
      check(own != nullptr);
      extra[name] = array(core.out_columns[c], 1, own, column_data[c]);
    }
    set(7, std::move(extra));
  } else {
    set(7, py::none());
  }
  gather.count = count;
  gather.window = window;
  gather.observation = data_.data();
  gather.next_observation = data_.data() + leaves;
  gather.columns = data_.data() + (core.ring().options().linked ? 2 : 1) * leaves;
  gather.reward = static_cast<float*>(reward);
  gather.terminated = static_cast<bool*>(terminated);
  gather.discount = static_cast<float*>(discount);
  index = static_cast<std::int64_t*>(names);
}

}  // namespace pyrl::bindings
