#include "replay/priority_tree.hpp"

#include "core/cuda_launch.cuh"

namespace pyrl::replay {
namespace {

// One block: a level waits for the one below.
__global__ void __launch_bounds__(TreeView::one_block) refresh_top_kernel(const TreeView tree, const int first) {
  for (int level = first; level < tree.levels(); ++level) {
    for (std::int64_t node = threadIdx.x; node < tree.nodes(level); node += TreeView::one_block) tree.refresh(level, node);
    __syncthreads();
  }
}

template <class Body>
void launch_all(const CudaStream& stream, const Body& body) {
  cuda::launch_elements(stream, body.threads(), body);
}

void refresh_on(const CudaStream& stream, const TreeView& tree, const ArrayView<const std::int64_t, 1>& slots) {
  refresh(tree, slots, [&](const auto& body) { launch_all(stream, body); },
          [&](int level) { cuda::launch(stream, 1, TreeView::one_block, refresh_top_kernel, tree, level); });
}

}  // namespace

void clear_priorities_cuda(const TreeView& tree, std::int64_t leaves, const CudaStream& stream) {
  cuda::fill_bytes(stream, tree.leaves(), 0, static_cast<std::size_t>(TreeView::bytes(leaves)));
  launch_all(stream, ClearSmallest{tree});
}

void restore_priorities_cuda(const TreeView& tree, const CudaStream& stream) {
  refresh_on(stream, tree, {});
}

template <class Real>
void update_priorities_cuda(const UpdateArgs<Real>& args, const CudaStream& stream) {
  const std::int64_t count = args.slots.size();
  if (count == 0) return;
  PYRL_CHECK(count < std::int64_t{1} << 32, ArgumentError, stream.function, ": index has ", count,
             " elements, expected less than 2^32 on a GPU");
  cuda::launch_elements(stream, count, MarkLast<Real>{args});
  cuda::launch_elements(stream, count, WriteLast<Real>{args});
  refresh_on(stream, args.tree, args.slots);
}

void follow_ring_cuda(const FollowRing& changes, const CudaStream& stream) {
  if (changes.slots.size() == 0) return;
  cuda::launch_elements(stream, changes.slots.size(), changes);
  refresh_on(stream, changes.tree, changes.slots);
}

void draw_priorities_cuda(const PriorityDrawArgs& args, const CudaStream& stream) {
  const std::int64_t count = args.slots.size();
  cuda::fill_bytes(stream, args.tree.drawn(), 0xff, sizeof(std::uint64_t));
  cuda::launch_elements(stream, count, DrawSlot{args, 1.0 / static_cast<double>(count)});
  cuda::launch_elements(stream, count, WeighSlot{args});
}

template void update_priorities_cuda(const UpdateArgs<float>&, const CudaStream&);
template void update_priorities_cuda(const UpdateArgs<double>&, const CudaStream&);

}  // namespace pyrl::replay
