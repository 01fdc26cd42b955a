#include "replay/gpu/sum_tree.hpp"

#include "core/cuda_launch.cuh"

namespace pyrl::replay {
namespace {

// After zeros everywhere.
struct ClearSmallest {
  TreeView tree;

  PYRL_HD void operator()(std::int64_t node) const { tree.clear_smallest(node); }
};

// The ancestors of listed slots on one level; slots of -1 are passed over.
struct RefreshAncestors {
  TreeView tree;
  ArrayView<const std::int64_t, 1> slots;
  int level;

  PYRL_HD void operator()(std::int64_t i) const {
    if (slots(i) >= 0) tree.refresh(level, slots(i) >> (4 * level));
  }
};

struct RefreshLevel {
  TreeView tree;
  int level;

  PYRL_HD void operator()(std::int64_t node) const { tree.refresh(level, node); }
};

constexpr int one_block = 256;  // nodes of a level that one block of threads refreshes with all above it: a level waits for the one below

__global__ void __launch_bounds__(one_block) refresh_top_kernel(const TreeView tree, const int first) {
  for (int level = first; level < tree.levels(); ++level) {
    for (std::int64_t node = threadIdx.x; node < tree.nodes(level); node += one_block) tree.refresh(level, node);
    __syncthreads();
  }
}

// After leaves have changed, those of `slots`, or any if absent.
void refresh(const CudaStream& stream, const TreeView& tree, const ArrayView<const std::int64_t, 1>& slots) {
  int level = 1;
  for (; tree.nodes(level) > one_block; ++level) {
    if (slots.present() && slots.size() < tree.nodes(level)) {
      cuda::launch_elements(stream, slots.size(), RefreshAncestors{tree, slots, level});
    } else {
      cuda::launch_elements(stream, tree.nodes(level), RefreshLevel{tree, level});
    }
  }
  cuda::launch(stream, 1, one_block, refresh_top_kernel, tree, level);
}

template <class Real>
struct MarkLast {
  UpdateArgs<Real> args;

  PYRL_HD void operator()(std::int64_t i) const {
    if (args.usable(i)) {
      atomic_max(&args.tree.mark(args.slots(i)), static_cast<std::uint32_t>(i + 1));
    } else {
      atomic_add(args.slots(i) < 0 ? &args.counts->stale : &args.counts->refused, 1);
    }
  }
};

template <class Real>
struct WriteLast {
  UpdateArgs<Real> args;

  PYRL_HD void operator()(std::int64_t i) const {
    if (!args.usable(i)) return;
    const std::int64_t slot = args.slots(i);
    std::uint32_t& mark = args.tree.mark(slot);
    if (mark != static_cast<std::uint32_t>(i + 1)) return;
    mark = 0;  // a block that reads this instead is not the last either
    args.tree.leaf(slot) = tree::leaf_of(static_cast<double>(args.priority[i]), args.alpha, args.epsilon);
  }
};

struct DrawSlot {
  PriorityDrawArgs args;
  double share;  // 1 / B

  PYRL_HD void operator()(std::int64_t i) const {
    const double total = args.tree.total();
    if (!(total > 0)) {
      args.slots(i) = -1;
      return;
    }
    args.slots(i) = args.tree.draw(tree::stratum(args.random.read(), i, share, total));
    if (args.weight != nullptr) args.note_smallest(i);
  }
};

struct NoteSmallest {
  PriorityDrawArgs args;

  PYRL_HD void operator()(std::int64_t i) const {
    if (args.slots(i) >= 0) args.note_smallest(i);
  }
};

struct WeighSlot {
  PriorityDrawArgs args;

  PYRL_HD void operator()(std::int64_t i) const {
    const std::int64_t slot = args.slots(i);
    const double smallest = args.weight_by_buffer ? args.tree.smallest() : std::bit_cast<double>(*args.tree.drawn());
    args.weight[i] = slot < 0 ? std::numeric_limits<float>::quiet_NaN() : tree::weight_of(args.tree.leaf(slot), smallest, args.beta);
  }
};

}  // namespace

void clear_priorities_cuda(const TreeView& tree, std::int64_t leaves, const CudaStream& stream) {
  cuda::fill_bytes(stream, tree.leaves(), 0, static_cast<std::size_t>(TreeView::bytes(leaves)));
  cuda::launch_elements(stream, tree.inner(), ClearSmallest{tree});
}

void restore_priorities_cuda(const TreeView& tree, const CudaStream& stream) {
  refresh(stream, tree, {});
}

template <class Real>
void update_priorities_cuda(const UpdateArgs<Real>& args, const CudaStream& stream) {
  const std::int64_t count = args.slots.size();
  if (count == 0) return;
  PYRL_CHECK(count < std::int64_t{1} << 32, ArgumentError, stream.function, ": index has ", count,
             " elements, expected less than 2^32 on a GPU");
  cuda::launch_elements(stream, count, MarkLast<Real>{args});
  cuda::launch_elements(stream, count, WriteLast<Real>{args});
  refresh(stream, args.tree, args.slots);
}

void follow_ring_cuda(const FollowRing& changes, const CudaStream& stream) {
  if (changes.slots.size() == 0) return;
  cuda::launch_elements(stream, changes.slots.size(), changes);
  refresh(stream, changes.tree, changes.slots);
}

void draw_priorities_cuda(const PriorityDrawArgs& args, const CudaStream& stream) {
  const std::int64_t count = args.slots.size();
  cuda::fill_bytes(stream, args.tree.drawn(), 0xff, sizeof(std::uint64_t));
  cuda::launch_elements(stream, count, DrawSlot{args, 1.0 / static_cast<double>(count)});
  if (args.weight != nullptr) cuda::launch_elements(stream, count, WeighSlot{args});
}

void weigh_priorities_cuda(const PriorityDrawArgs& args, const CudaStream& stream) {
  const std::int64_t count = args.slots.size();
  if (count == 0) return;
  cuda::fill_bytes(stream, args.tree.drawn(), 0xff, sizeof(std::uint64_t));
  cuda::launch_elements(stream, count, NoteSmallest{args});
  cuda::launch_elements(stream, count, WeighSlot{args});
}

template void update_priorities_cuda(const UpdateArgs<float>&, const CudaStream&);
template void update_priorities_cuda(const UpdateArgs<double>&, const CudaStream&);

}  // namespace pyrl::replay
