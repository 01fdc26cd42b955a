// A sum tree by itself, for priorities of records that lie elsewhere. The Python face is pyrl.ops.SumTree.
#include <algorithm>
#include <cmath>
#include <vector>

#include "bindings/array_arg.hpp"
#include "bindings/border.hpp"
#include "bindings/constructed.hpp"
#include "bindings/cuda_arg.hpp"
#include "bindings/fast_call.hpp"
#include "bindings/random_arg.hpp"
#include "bindings/real_arg.hpp"
#include "bindings/registry.hpp"
#include "core/platform.hpp"
#include "replay/select/sum_tree.hpp"

namespace py = pybind11;
using namespace pyrl;
using namespace pyrl::bindings;

namespace pyrl::bindings {

struct SumTreeCore {
  explicit SumTreeCore(std::int64_t size) : tree(size) {}

  replay::SumTree tree;
  Lock lock;
};

}  // namespace pyrl::bindings

PYRL_CONSTRUCTED(::pyrl::bindings::SumTreeCore);

namespace {

// Copied: another thread may write to the array meanwhile.
std::vector<std::int64_t> leaves_arg(const SumTreeCore& self, const ArrayArg& arg) {
  const auto index = arg.as<const std::int64_t, 1>("[B]");
  std::vector<std::int64_t> leaves(index.data, index.data + index.extent[0]);
  for (std::size_t i = 0; i < leaves.size(); ++i)
    PYRL_CHECK(leaves[i] >= 0 && leaves[i] < self.tree.leaves(), ArgumentError, arg.function, ": element ", i, " of index is ", leaves[i],
               ", expected 0 to ", self.tree.leaves() - 1);
  return leaves;
}

void check_weight(const char* function, const char* name, std::size_t i, double value) {
  PYRL_CHECK(std::isfinite(value), NonFiniteError, function, ": element ", i, " of ", name, " is ", value, ", expected a finite number");
  PYRL_CHECK(value >= 0 && value <= replay::tree::most, ArgumentError, function, ": element ", i, " of ", name, " is ", value, ", expected 0 to ",
             replay::tree::most);
}

// `leaf(value)` of each element.
template <class Leaf>
void set_leaves(SumTreeCore& self, const Arg& index_arg, const Arg& value_arg, const Leaf& leaf) {
  Border border(index_arg.function);
  const std::vector<std::int64_t> index = leaves_arg(self, border.input(index_arg));
  const ArrayArg value = border.input(value_arg);
  std::vector<double> leaves(index.size());
  with_real(value, [&]<class Real>(Real) {
    const auto given = value.as<const Real, 1>({static_cast<std::int64_t>(index.size())}, "[B]");
    for (std::size_t i = 0; i < leaves.size(); ++i) {
      leaves[i] = static_cast<double>(given.data[i]);
      check_weight(value_arg.function, value_arg.name, i, leaves[i]);
    }
  });
  simd::dispatch([&]() PYRL_INLINE_LAMBDA {
    for (double& value_of : leaves) value_of = leaf(value_of);
  });
  for (std::size_t i = 0; i < leaves.size(); ++i)
    PYRL_CHECK(leaves[i] <= replay::tree::most, ArgumentError, value_arg.function, ": the weight of element ", i, " is ", leaves[i], ", expected at most ",
               replay::tree::most, ", so that the sum of all is finite");
  alone(self.lock, [&] {
    for (std::size_t i = 0; i < leaves.size(); ++i) self.tree.set(index[i], leaves[i]);
  });
}

// (index, weight)
py::object set(SumTreeCore& self, FastArgs args) {
  set_leaves(self, args[0], args[1], [](double weight) { return weight; });
  return py::none();
}

// (index, priority, alpha, epsilon): leaves (priority + epsilon)^alpha
py::object set_priority(SumTreeCore& self, FastArgs args) {
  const double alpha = number_below(args[2], 0, infinity), epsilon = number_in(args[3], replay::tree::least, replay::tree::most);
  set_leaves(self, args[0], args[1], [=](double priority) { return replay::tree::leaf_of(priority, alpha, epsilon); });
  return py::none();
}

// (index) -> float64 [B]
py::object get(SumTreeCore& self, FastArgs args) {
  ArrayArg arg = read_array(args[0], args[0].function, args[0].name);
  const std::vector<std::int64_t> index = leaves_arg(self, arg);
  py::object found;
  const auto to = allocate<double, 1>(found, location_of(arg), {static_cast<std::int64_t>(index.size())});
  alone(self.lock, [&] { std::transform(index.begin(), index.end(), to.data, [&](std::int64_t leaf) { return self.tree.get(leaf); }); });
  return found;
}

// (index, beta) -> float32 [B]: (leaf / smallest leaf of the tree that is not zero)^-beta
py::object importance(SumTreeCore& self, FastArgs args) {
  ArrayArg arg = read_array(args[0], args[0].function, args[0].name);
  const std::vector<std::int64_t> index = leaves_arg(self, arg);
  const double beta = number_below(args[1], 0, infinity);
  py::object found;
  const auto to = allocate<float, 1>(found, location_of(arg), {static_cast<std::int64_t>(index.size())});
  std::vector<double> leaves(index.size());
  double smallest = 0;
  alone(self.lock, [&] {
    smallest = self.tree.smallest();
    std::transform(index.begin(), index.end(), leaves.begin(), [&](std::int64_t leaf) { return self.tree.get(leaf); });
  });
  simd::dispatch([&]() PYRL_INLINE_LAMBDA {
    for (std::size_t i = 0; i < leaves.size(); ++i) to.data[i] = replay::tree::weight_of(leaves[i], smallest, beta);
  });
  return found;
}

void check_total(SumTreeCore& self, const char* function) {
  PYRL_CHECK(self.tree.total() > 0, ArgumentError, function, ": all weights are zero, there is nothing to draw");
}

// (value float64 [B]) -> int64 [B]
py::object find(SumTreeCore& self, FastArgs args) {
  const char* function = args[0].function;
  ArrayArg arg = read_array(args[0], function, args[0].name);
  const auto value = arg.as<const double, 1>("[B]");
  const std::vector<double> wanted(value.data, value.data + value.extent[0]);
  py::object found;
  const auto to = allocate<std::int64_t, 1>(found, location_of(arg), {value.extent[0]});
  alone(self.lock, [&] {
    check_total(self, function);
    const double total = self.tree.total();
    for (std::size_t i = 0; i < wanted.size(); ++i)
      PYRL_CHECK(wanted[i] >= 0 && wanted[i] < total, ArgumentError, function, ": element ", i, " of value is ", wanted[i], ", expected 0 to below ", total,
                 ", the sum of all");
    self.tree.find(wanted.data(), value.extent[0], to.data);
  });
  return found;
}

// (size, random, torch) -> int64 [size]
py::object draw(SumTreeCore& self, FastArgs args) {
  const char* function = args[0].function;
  const std::int64_t size = integer_arg(args[0]);
  PYRL_CHECK(size >= 1, ArgumentError, function, ": size is ", size, ", expected at least 1");
  RandomStream* const random = random_arg(args[1], function).here();
  PYRL_CHECK(random != nullptr, DeviceError, function, ": random is on a GPU, expected one of the CPU");
  py::object found;
  const auto to = allocate<std::int64_t, 1>(found, flag_arg(args[2]) ? Kind::Torch : Kind::NumPy, {size});
  alone(self.lock, [&] { check_total(self, function); });
  const RandomStream stream{random->key, random->next_draw()};
  alone(self.lock, [&] {
    check_total(self, function);  // another thread may have cleared it
    self.tree.draw(stream, size, to.data);
  });
  return found;
}

// (start, end)
py::object sum(SumTreeCore& self, FastArgs args) {
  const std::int64_t start = integer_arg(args[0]), end = integer_arg(args[1]), size = self.tree.leaves();
  PYRL_CHECK(start >= 0 && start <= size, ArgumentError, args[0].function, ": start is ", start, ", expected 0 to ", size);
  PYRL_CHECK(end >= 0 && end <= size, ArgumentError, args[0].function, ": end is ", end, ", expected 0 to ", size);
  return py::float_(alone(self.lock, [&] { return self.tree.sum(start, end); }));
}

}  // namespace

PYRL_BINDINGS(sum_tree, m) {
  py::class_<SumTreeCore> core(m, "SumTreeCore", "The sum tree behind pyrl.ops.SumTree.");
  core.def(py::init([](std::int64_t size) { return new SumTreeCore(size); }), py::arg("size"))
      .def("__len__", [](const SumTreeCore& self) { return self.tree.leaves(); })
      .def("clear", [](SumTreeCore& self) { alone(self.lock, [&] { self.tree.clear(); }); })
      .def_property_readonly("total", [](SumTreeCore& self) { return alone(self.lock, [&] { return self.tree.total(); }); })
      .def_property_readonly("largest", [](SumTreeCore& self) { return alone(self.lock, [&] { return self.tree.largest(); }); })
      .def_property_readonly("smallest", [](SumTreeCore& self) { return alone(self.lock, [&] { return self.tree.smallest(); }); });
  def_fast_method<SumTreeCore, set, "SumTree.set(index, weight)">(core);
  def_fast_method<SumTreeCore, set_priority, "SumTree.set_priority(index, priority, alpha, epsilon)">(core);
  def_fast_method<SumTreeCore, get, "SumTree.get(index)">(core);
  def_fast_method<SumTreeCore, importance, "SumTree.importance(index, beta)">(core);
  def_fast_method<SumTreeCore, find, "SumTree.find(value)">(core);
  def_fast_method<SumTreeCore, draw, "SumTree.draw(size, random, torch)">(core);
  def_fast_method<SumTreeCore, sum, "SumTree.sum(start, end)">(core);
}
