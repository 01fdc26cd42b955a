// What host code knows of CUDA: whether this build has it, and the stream a twin works on. No CUDA header is needed for that.
//
// The twin of a kernel `f(args)` is `f_cuda(args, stream)`, in the .cu file beside the .cpp one. It takes addresses of the
// stream's device, puts its work on the stream and returns: it neither waits nor allocates, so it can be captured in
// a CUDA graph. What the CPU kernel finds in the data and throws, the twin cannot; it says in its header what it writes instead.
#pragma once

#include <cstdint>

namespace pyrl {

inline constexpr bool cuda_built = PYRL_HAS_CUDA != 0;

struct CudaStream {
  const char* function = "";  // for messages
  int device = 0;
  void* handle = nullptr;     // a cudaStream_t
};

// *word += amount, on the stream: a counter that the work before reads, and the next replay of a CUDA graph finds moved on.
void add_cuda(std::int64_t* word, std::int64_t amount, const CudaStream& stream);

}  // namespace pyrl
