// Link all steps, then find every result.
#pragma once

#include "core/cuda_launch.cuh"
#include "sampling/parallel_shuffle.hpp"

namespace pyrl::sampling {

template <class Link, class Resolve, class Args>
void shuffle_cuda(const Args& args, std::int64_t count, void* space, const CudaStream& stream) {
  if (count == 0) return;
  const Moves moves(space, count);
  cuda::fill_bytes(stream, moves.head(), 0xff, moves.head_bytes());
  cuda::launch_elements(stream, count, Link{args, moves});
  cuda::launch_elements(stream, count, Resolve{args, moves});
}

}  // namespace pyrl::sampling
